//! Measures the cost of TLS. One run compares `transport::Tls` with a plain session and with rustls
//! alone.
//!
//! `cargo bench --features rustls --bench tls`
//!
//! - Echo: 8 streams of 8 MiB are echoed over one session. For comparison, two rustls connections
//!   carry the same bytes, one in each direction. All of this runs in one process.
//! - Round trips of 64 bytes between two processes. The second process is this program, too.
//!
//! The compared variants run by turns, several times. The result is the median.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gmux::transport::Tls;
use gmux::{Config, Session};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};

const STREAMS: usize = 8;
const EACH: usize = 8 << 20;
const ROUNDS: usize = 7;

/// Number of round trips in one measurement, and number of earlier round trips to warm up.
const TRIPS: usize = 5000;
const WARM_UP: usize = 500;

/// Returns the number of rounds. `cargo bench` passes `--bench`. Without `--bench`, this program
/// only checks that everything works.
fn repeats() -> usize {
    if std::env::args().any(|arg| arg == "--bench") { ROUNDS } else { 1 }
}

const LONG: Duration = Duration::from_secs(10);

/// Names of the environment variables that give the peer process the certificate and its key, in
/// hexadecimal.
const CERTIFICATE: &str = "GMUX_BENCH_CERTIFICATE";
const KEY: &str = "GMUX_BENCH_KEY";

fn main() {
    if let Some(kind) = std::env::args().skip_while(|arg| arg != "--peer").nth(1) {
        return peer(&kind);
    }
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let identity =
        Identity { certificate: made.cert.der().to_vec(), key: made.signing_key.serialize_der() };
    // For a profiler: if the arguments name a variant, only that variant runs.
    match std::env::args().find(|arg| ["tls", "rustls", "tcp"].contains(&arg.as_str())).as_deref() {
        Some("tls") => (0..repeats()).for_each(|_| {
            let _ = tls_echo(&identity);
        }),
        Some("rustls") => (0..repeats()).for_each(|_| {
            let _ = two_one_way(&identity);
        }),
        Some(_) => (0..repeats()).for_each(|_| {
            let _ = session_echo(session);
        }),
        None => {
            echo(&identity);
            round_trips(&identity);
        }
    }
}

// ---- both ends ---------------------------------------------------------------------------------

struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Identity {
    fn client(&self) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.certificate.clone())).expect("a root");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").expect("a name"))
            .expect("a client")
    }

    fn server(&self) -> ServerConnection {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let certificate = CertificateDer::from(self.certificate.clone());
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        ServerConnection::new(Arc::new(config.expect("a configuration"))).expect("a server")
    }
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let client =
        TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let server = listener.accept().expect("a connection").0;
    for end in [&client, &server] {
        end.set_nodelay(true).expect("an option");
    }
    (client, server)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// ---- echo --------------------------------------------------------------------------------------

fn echo(identity: &Identity) {
    let mut over_tls = Vec::new();
    let mut over_tcp = Vec::new();
    let mut one_way = Vec::new();
    for _ in 0..repeats() {
        over_tls.push(tls_echo(identity));
        one_way.push(two_one_way(identity));
        over_tcp.push(session_echo(session));
    }
    let [over_tls, over_tcp, one_way] = [over_tls, over_tcp, one_way].map(median);
    println!("echo of {STREAMS} x {} MiB, MB/s each way (medians of {}):", EACH >> 20, repeats());
    println!("  session over Tls            {over_tls:8.0}");
    println!(
        "  two one-way rustls          {one_way:8.0}   Tls / rustls {:.2} (goal 0.85)",
        over_tls / one_way
    );
    println!(
        "  session over TCP            {over_tcp:8.0}   Tls / TCP    {:.2}",
        over_tls / over_tcp
    );
}

fn session<T: gmux::transport::Transport>(transport: T, is_client: bool) -> Session {
    let config = Config::new();
    let session = if is_client {
        Session::client(transport, config)
    } else {
        Session::server(transport, config)
    };
    session.expect("a session")
}

fn tls_echo(identity: &Identity) -> f64 {
    session_echo(|tcp, is_client| {
        let tls = if is_client {
            Tls::handshake(identity.client(), tcp, LONG)
        } else {
            Tls::handshake(identity.server(), tcp, LONG)
        };
        session(tls.expect("a handshake"), is_client)
    })
}

/// Returns MB/s in each direction.
fn session_echo(make: impl Fn(TcpStream, bool) -> Session + Sync) -> f64 {
    let (a, b) = tcp();
    let (client, server) = thread::scope(|scope| {
        let client = scope.spawn(|| make(a, true));
        let server = make(b, false);
        (client.join().expect("a client"), server)
    });
    let data = vec![7; 64 * 1024];
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::scope(|scope| {
                for _ in 0..STREAMS {
                    let mut stream = server.accept().expect("a stream");
                    scope.spawn(move || {
                        let mut buf = vec![0; 64 * 1024];
                        loop {
                            match stream.read(&mut buf).expect("data") {
                                0 => break,
                                n => stream.write_all(&buf[..n]).expect("room"),
                            }
                        }
                        stream.shutdown(Shutdown::Write).expect("an end");
                    });
                }
            });
        });
        for i in 0..STREAMS {
            let stream = client.open(format!("{i}")).expect("a stream");
            let mut reader = stream.clone();
            let data = &data;
            scope.spawn(move || {
                for _ in 0..EACH / data.len() {
                    (&stream).write_all(data).expect("room");
                }
                stream.shutdown(Shutdown::Write).expect("an end");
            });
            scope.spawn(move || {
                let mut buf = vec![0; 64 * 1024];
                let mut total = 0;
                loop {
                    match reader.read(&mut buf).expect("data") {
                        0 => break,
                        n => total += n,
                    }
                }
                assert_eq!(total, EACH);
            });
        }
    });
    let took = started.elapsed();
    let _ = client.close();
    (STREAMS * EACH) as f64 / 1e6 / took.as_secs_f64()
}

/// Returns the MB/s of each direction. Two connections carry data, each in one direction.
fn two_one_way(identity: &Identity) -> f64 {
    let both = [0, 1].map(|_| {
        let (a, b) = tcp();
        let mut client = StreamOwned::new(identity.client(), a);
        let mut server = StreamOwned::new(identity.server(), b);
        thread::scope(|scope| {
            scope.spawn(|| client.conn.complete_io(&mut client.sock).expect("a handshake"));
            server.conn.complete_io(&mut server.sock).expect("a handshake");
        });
        (client, server)
    });
    let [(mut a, mut b), (mut c, mut d)] = both;
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| pour(&mut a));
        scope.spawn(|| drain(&mut b));
        scope.spawn(|| pour(&mut d));
        scope.spawn(|| drain(&mut c));
    });
    (STREAMS * EACH) as f64 / 1e6 / started.elapsed().as_secs_f64()
}

fn pour(output: &mut impl Write) {
    let data = vec![7; 64 * 1024];
    for _ in 0..STREAMS * EACH / data.len() {
        output.write_all(&data).expect("room");
    }
    output.flush().expect("room");
}

fn drain(input: &mut impl Read) {
    let mut buf = vec![0; 64 * 1024];
    let mut left = STREAMS * EACH;
    while left > 0 {
        left -= input.read(&mut buf).expect("data");
    }
}

// ---- round trips -------------------------------------------------------------------------------

const KINDS: [&str; 3] = ["tls", "tcp", "rustls"];

fn round_trips(identity: &Identity) {
    let mut rounds = KINDS.map(|_| Vec::new());
    for _ in 0..repeats() {
        for (kind, times) in KINDS.iter().zip(&mut rounds) {
            times.push(trips(kind, identity));
        }
    }
    let [tls, tcp, rustls] = rounds.map(median);
    println!(
        "round trip of 64 bytes between two processes, us (medians of {} medians of {TRIPS}):",
        repeats()
    );
    println!("  session over Tls            {tls:8.1}");
    println!("  session over TCP            {tcp:8.1}   Tls / TCP    {:.2} (goal 2)", tls / tcp);
    println!("  rustls alone                {rustls:8.1}   Tls / rustls {:.2}", tls / rustls);
}

/// Returns the median round trip, in microseconds.
fn trips(kind: &str, identity: &Identity) -> f64 {
    let (mut child, tcp) = start(kind, identity);
    let took = match kind {
        "tls" => session_trips(&session(
            Tls::handshake(identity.client(), tcp, LONG).expect("a handshake"),
            true,
        )),
        "tcp" => session_trips(&session(tcp, true)),
        _ => trip(&mut StreamOwned::new(identity.client(), tcp)),
    };
    child.wait().expect("the peer ends");
    took
}

fn session_trips(session: &Session) -> f64 {
    let took = trip(&mut session.open("").expect("a stream"));
    session.close().expect("an end");
    took
}

fn trip(both: &mut (impl Read + Write)) -> f64 {
    let request = [1; 64];
    let mut answer = [0; 64];
    let mut times = Vec::with_capacity(TRIPS);
    for _ in 0..WARM_UP + TRIPS {
        let started = Instant::now();
        both.write_all(&request).expect("room");
        both.read_exact(&mut answer).expect("an answer");
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    median(times.split_off(WARM_UP))
}

/// Starts this program again as the peer, and connects to it.
fn start(kind: &str, identity: &Identity) -> (Child, TcpStream) {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command
        .args(["--peer", kind])
        .env(CERTIFICATE, hex(&identity.certificate))
        .env(KEY, hex(&identity.key));
    let mut child = command.stdout(Stdio::piped()).spawn().expect("a peer");
    let mut port = String::new();
    io::BufRead::read_line(
        &mut io::BufReader::new(child.stdout.take().expect("its output")),
        &mut port,
    )
    .expect("a port");
    let tcp = TcpStream::connect(("127.0.0.1", port.trim().parse().expect("a port")))
        .expect("a connection");
    tcp.set_nodelay(true).expect("an option");
    (child, tcp)
}

/// Runs the peer process. It answers until the first process closes the connection.
fn peer(kind: &str) {
    let variable = |name| unhex(&std::env::var(name).expect("a variable"));
    let identity = Identity { certificate: variable(CERTIFICATE), key: variable(KEY) };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    println!("{}", listener.local_addr().expect("an address").port());
    let tcp = listener.accept().expect("a connection").0;
    tcp.set_nodelay(true).expect("an option");
    match kind {
        "tls" => session_answers(session(
            Tls::handshake(identity.server(), tcp, LONG).expect("a handshake"),
            false,
        )),
        "tcp" => session_answers(session(tcp, false)),
        _ => answer(&mut StreamOwned::new(identity.server(), tcp)),
    }
}

fn session_answers(session: Session) {
    answer(&mut session.accept().expect("a stream"));
    let _ = session.close();
}

fn answer(both: &mut (impl Read + Write)) {
    let mut request = [0; 64];
    while both.read_exact(&mut request).is_ok() {
        if both.write_all(&request).is_err() {
            break;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("two digits");
    (0..text.len()).step_by(2).map(digits).collect()
}
