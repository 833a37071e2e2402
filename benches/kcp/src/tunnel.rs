//! A way for a TCP connection's packets to go through the UDP relay. It has two TUN devices, one in
//! a new network namespace. socat carries their packets over UDP.
//!
//! The kernel can also drop packets (netem, iptables), but not on every machine. The tunnel needs
//! root, `ip`, and socat. The drop of a [`Tunnel`] removes the namespace. A device goes with its
//! socat process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::forwarders::{Forwarder, free_addr};
use crate::load::Target;
use crate::udp_relay::{Link, UdpRelay};
use crate::{PATIENCE, Pair};

/// The namespace of the far end.
const SPACE: &str = "gmuxkcp";

/// Size of a packet, in bytes. It equals the size of a datagram with `--mtu 1350`.
const MTU: &str = "1350";

/// The addresses of the near and of the far end of the tunnel.
const TUNNEL: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];

/// The addresses of the target and of the far end, on a second link. That link is as good as
/// loopback.
const BESIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];

pub struct Tunnel(());

impl Tunnel {
    /// Makes the far end's namespace, and a link to it.
    ///
    /// # Errors
    /// Returns the reason why this machine can't have them.
    pub fn new() -> Result<Self, String> {
        socat().arg("-V").output().map_err(|error| format!("socat: {error}"))?;
        if !Path::new("/dev/net/tun").exists() {
            return Err("no /dev/net/tun".to_owned());
        }
        remove(); // a run that was killed may have left them
        ip(&format!("netns add {SPACE}"))?;
        let tunnel = Self(());
        ip(&format!("link add gmuxv0 type veth peer name gmuxv1 netns {SPACE}"))?;
        ip(&format!("addr add {}/30 dev gmuxv0", BESIDE[0]))?;
        ip("link set gmuxv0 up")?;
        ip(&format!("-n {SPACE} addr add {}/30 dev gmuxv1", BESIDE[1]))?;
        ip(&format!("-n {SPACE} link set gmuxv1 up"))?;
        ip(&format!("-n {SPACE} link set lo up"))?;
        Ok(tunnel)
    }

    /// Returns the common kinds of congestion control that a network namespace can have here.
    pub fn controls() -> Vec<String> {
        let known = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
        let known = std::fs::read_to_string(known).unwrap_or_default();
        let has = |name: &&str| known.split_whitespace().any(|each| each == *name);
        ["reno", "cubic", "bbr"].into_iter().filter(has).map(str::to_owned).collect()
    }

    /// Starts our example `forward` at both ends, over TCP through the relay. The far end sends the
    /// data, so it gets the given congestion control.
    pub fn start(&self, forward: &Path, link: Link, control: &str) -> Pair {
        let set = format!("net.ipv4.tcp_congestion_control={control}");
        ip(&format!("netns exec {SPACE} sysctl -q -w {set}")).unwrap();
        let far_udp = free_addr();
        let relay = UdpRelay::start(far_udp, link).unwrap();

        // Start the far end's device first. It has to take packets before the near end sends any.
        let mut command = socat();
        command.args(["TUN,tun-name=gmuxt1,iff-no-pi".to_owned(), listen(far_udp)]);
        let far_socat = Forwarder::spawn("socat".to_owned(), command);
        device("gmuxt1");
        ip(&format!("link set gmuxt1 netns {SPACE}")).unwrap();
        ip(&format!("-n {SPACE} addr add {}/30 dev gmuxt1", TUNNEL[1])).unwrap();
        ip(&format!("-n {SPACE} link set gmuxt1 mtu {MTU} up")).unwrap();

        let mut command = socat();
        let near_udp = format!("UDP4:{}", relay.addr());
        command.args(["TUN,tun-name=gmuxt0,iff-no-pi", &near_udp]);
        let near_socat = Forwarder::spawn("socat".to_owned(), command);
        device("gmuxt0");
        ip(&format!("addr add {}/30 dev gmuxt0", TUNNEL[0])).unwrap();
        ip(&format!("link set gmuxt0 mtu {MTU} up")).unwrap();

        let target = Target::start_at(BESIDE[0], PATIENCE).unwrap();
        let far = SocketAddr::from((TUNNEL[1], 7000));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", SPACE]).arg(forward).args([
            "server".to_owned(),
            format!("--listen={far}"),
            format!("--service=target={}", target.addr()),
        ]);
        let server = Forwarder::spawn("our server".to_owned(), command).wait("tcp", far);
        let near = free_addr();
        let mut command = Command::new(forward);
        command.args(["client", "--service=target"]);
        command.args([format!("--listen={near}"), format!("--remote={far}")]);
        let client = Forwarder::spawn("our client".to_owned(), command).wait("tcp", near);
        Pair { near, client, server, target, relay, beside: vec![near_socat, far_socat] }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        remove();
    }
}

/// Removes the link and the namespace. Without this call, the system removes them when the last
/// socket in the namespace is closed.
fn remove() {
    let _ = ip("link del gmuxv0");
    let _ = ip(&format!("netns del {SPACE}"));
}

fn socat() -> Command {
    Command::new("socat")
}

fn listen(addr: SocketAddr) -> String {
    format!("UDP4-LISTEN:{},bind={}", addr.port(), addr.ip())
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Waits until socat has made its device.
fn device(name: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while !Path::new("/sys/class/net").join(name).exists() {
        assert!(Instant::now() < until, "socat makes no device {name}");
        thread::sleep(Duration::from_millis(5)); // there is no event to wait for
    }
}
