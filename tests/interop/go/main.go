// Gopeer is the other end of gmux's interoperation tests. It runs Go's smux over one TCP
// connection, controlled by flags. It prints one machine-readable line per event, and exits with 0
// when everything was as expected.
//
// ../README.md has the flags, the output lines and the protocol of each mode. The modes are in
// modes.go, and their data is in data.go. wire.go watches the frames that pass. So it finds faults
// of the peer that Go's smux would silently tolerate.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/xtaci/smux"
)

// Exit codes. Package flag uses 2 for a bad command line.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitWatchdog  = 3
	exitViolation = 4
)

// options are the flags of the command line, and values that follow from them.
type options struct {
	mode    string
	role    string
	addr    string
	side    string
	opener  string
	who     string
	hangup  string
	abrupt  bool
	count   int
	conc    int
	bytes   uint64
	maxLen  int
	seed    uint64
	ticks   int
	wait    time.Duration
	linger  time.Duration
	timeout time.Duration
	config  *smux.Config
}

// peer is one session and everything a mode needs to run on it.
type peer struct {
	options
	sess *smux.Session
	wire *wireConn
}

var modes = map[string]func(*peer) (string, error){
	"streams":   (*peer).streams,
	"bulk":      (*peer).bulk,
	"close":     (*peer).closing,
	"keepalive": (*peer).keepalive,
	"version":   (*peer).version,
	"named":     (*peer).named,
	"sum":       (*peer).sum,
}

func main() {
	o := parse()
	time.AfterFunc(o.timeout, func() {
		fmt.Fprintf(os.Stderr, "gopeer: watchdog: mode %s not done after %v\n", o.mode, o.timeout)
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
		os.Exit(exitWatchdog)
	})

	p, err := connect(o)
	if err != nil {
		die(exitFailed, err)
	}
	verdict, err := modes[o.mode](p)
	p.sess.Close() // The error of a session that is closed already was reported by its mode.
	in, out, violation := p.wire.summary()
	say("WIRE in %s", in)
	say("WIRE out %s", out)
	if n := earlyEnds(); n > 0 {
		say("NOTE %d reads ended before buffered data was read", n)
	}
	// Modes that ask for malformed input report it by themselves.
	if violation != "" && o.mode != "version" && o.mode != "named" {
		say("VIOLATION %s", violation)
		fmt.Fprintf(os.Stderr, "gopeer: the peer broke the protocol: %s\n", violation)
		if err == nil {
			os.Exit(exitViolation)
		}
	}
	if err != nil {
		die(exitFailed, fmt.Errorf("mode %s: %w", o.mode, err))
	}
	say("%s", verdict)
}

func parse() options {
	c := smux.DefaultConfig()
	o := options{config: c}
	flag.StringVar(&o.mode, "mode", "", "streams, bulk, close, keepalive, version, named or sum")
	flag.StringVar(&o.role, "role", "listen", "TCP role: listen (prints ADDR) or dial (needs -addr)")
	flag.StringVar(&o.addr, "addr", "", "where to dial")
	flag.StringVar(&o.side, "side", "server", "smux side: client or server")
	flag.StringVar(&o.opener, "opener", "peer", "who opens the streams: go or peer")
	flag.StringVar(&o.who, "who", "go", "close: who closes first: go, peer, both, cut or peercut")
	flag.StringVar(&o.hangup, "hangup", "peer",
		"streams, bulk, keepalive, sum: who ends the session: go or peer")
	flag.BoolVar(&o.abrupt, "abrupt", false,
		"close: don't wait for the peer's FIN before ending the session")
	flag.IntVar(&o.count, "count", 1000, "streams, sum: number of streams")
	flag.IntVar(&o.conc, "parallel", 64, "streams, sum: limit of the streams that go has open at once")
	flag.Uint64Var(&o.bytes, "bytes", 0,
		"bulk, close: bytes each way (0: 268435456 for bulk, 100000 for close)")
	flag.IntVar(&o.maxLen, "maxlen", 65536, "streams, sum: longest payload that go sends")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the pattern, and of go's random payloads")
	flag.IntVar(&o.ticks, "intervals", 3, "keepalive: number of NOPs that have to come in")
	flag.DurationVar(&o.wait, "wait", 2*time.Second,
		"version, named, close: longest wait for one event")
	flag.DurationVar(&o.linger, "linger", 0,
		"on session close, half-close TCP and read on for this time (0: just close, as smux does)")
	flag.DurationVar(&o.timeout, "timeout", 120*time.Second, "the watchdog")
	flag.IntVar(&c.Version, "version", c.Version, "protocol version, 1 or 2")
	flag.DurationVar(&c.KeepAliveInterval, "interval", c.KeepAliveInterval, "keepalive interval")
	flag.DurationVar(&c.KeepAliveTimeout, "keeptimeout", c.KeepAliveTimeout, "keepalive timeout")
	flag.BoolVar(&c.KeepAliveDisabled, "nokeepalive", false, "send no NOPs and expect none")
	flag.IntVar(&c.MaxFrameSize, "frame", c.MaxFrameSize, "largest payload of a frame that go sends")
	flag.IntVar(&c.MaxReceiveBuffer, "rbuf", c.MaxReceiveBuffer, "receive budget of the session")
	flag.IntVar(&c.MaxStreamBuffer, "sbuf", c.MaxStreamBuffer, "version 2: window of a stream")
	flag.Parse()

	oneOf := func(name, value string, allowed ...string) {
		for _, a := range allowed {
			if value == a {
				return
			}
		}
		die(exitUsage, fmt.Errorf("-%s %q is none of %s", name, value, strings.Join(allowed, ", ")))
	}
	oneOf("mode", o.mode, "streams", "bulk", "close", "keepalive", "version", "named", "sum")
	oneOf("role", o.role, "listen", "dial")
	oneOf("side", o.side, "client", "server")
	oneOf("opener", o.opener, "go", "peer")
	oneOf("who", o.who, "go", "peer", "both", "cut", "peercut")
	oneOf("hangup", o.hangup, "go", "peer")
	switch {
	case flag.NArg() > 0:
		die(exitUsage, fmt.Errorf("unexpected argument %q", flag.Arg(0)))
	case (o.role == "dial") != (o.addr != ""):
		die(exitUsage, errors.New("-addr goes with -role dial, and only with it"))
	case o.count < 0 || o.conc < 1 || o.maxLen < 0 || o.ticks < 0:
		die(exitUsage, errors.New("counts and lengths can't be negative, nor -parallel 0"))
	}
	if err := smux.VerifyConfig(c); err != nil {
		die(exitUsage, err)
	}
	if o.bytes == 0 {
		o.bytes = 268435456
		if o.mode == "close" {
			o.bytes = 100000
		}
	}
	return o
}

// connect makes the TCP connection, then the session.
func connect(o options) (*peer, error) {
	var conn net.Conn
	if o.role == "listen" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		say("ADDR %s", l.Addr())
		if conn, err = l.Accept(); err != nil {
			return nil, err
		}
	} else {
		var err error
		if conn, err = net.DialTimeout("tcp", o.addr, o.timeout); err != nil {
			return nil, err
		}
	}
	w := newWireConn(conn.(*net.TCPConn), o)
	start := smux.Server
	if o.side == "client" {
		start = smux.Client
	}
	sess, err := start(w, o.config)
	if err != nil {
		return nil, err
	}
	return &peer{options: o, sess: sess, wire: w}, nil
}

// say prints one line for the test that runs gopeer.
func say(format string, args ...interface{}) {
	fmt.Println(oneLine(fmt.Sprintf(format, args...)))
}

func oneLine(s string) string {
	return strings.ReplaceAll(s, "\n", " ")
}

func die(code int, err error) {
	fmt.Fprintf(os.Stderr, "gopeer: %v\n", err)
	os.Exit(code)
}

// open opens a stream if that is our part. Otherwise it accepts the peer's.
func (p *peer) open() (*stream, error) {
	if p.opener == "go" {
		s, err := p.sess.OpenStream()
		if err != nil {
			return nil, fmt.Errorf("open: %w", err)
		}
		return &stream{s}, nil
	}
	return p.accept()
}

func (p *peer) accept() (*stream, error) {
	s, err := p.sess.AcceptStream()
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	return &stream{s}, nil
}

// finish ends the session from the side that -hangup names. If that is our side, it waits for the
// peer's FINs first. smux closes the socket at once. The peer's next frame would be answered by a
// reset, and the kernel would drop data that it hasn't sent yet.
func (p *peer) finish(fins int) error {
	if p.hangup == "go" {
		if !p.wire.waitFins(fins, p.timeout) {
			return fmt.Errorf("the peer didn't send %d FINs", fins)
		}
		if err := p.sess.Close(); err != nil {
			return fmt.Errorf("session close: %w", err)
		}
		say("SESSION closed here")
		return nil
	}
	return p.awaitEnd()
}

// awaitEnd waits until the peer ends the session.
func (p *peer) awaitEnd() error {
	s, err := p.sess.AcceptStream()
	if err == nil {
		return fmt.Errorf("expected the session's end, but stream %d was opened", s.ID())
	}
	say("SESSION %v", err)
	return p.sess.Close()
}

// stream is a smux stream whose Read reports an end only after all data that arrived before it.
// Plain smux breaks this rule in two ways. Its select may choose the socket's error while data is
// waiting. A read of version 2 that has read data fails if its window update can't be written.
type stream struct {
	*smux.Stream
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if err == nil {
		return n, nil
	}
	if n == 0 {
		// All data has arrived by now, so read once more.
		n, _ = s.Stream.Read(b)
	}
	if n > 0 {
		countEarlyEnd()
		return n, nil
	}
	return 0, err
}

// expectEOF fails unless the stream ends here.
func (s *stream) expectEOF() error {
	var b [1]byte
	n, err := s.Read(b[:])
	if n > 0 {
		return fmt.Errorf("stream %d: a byte %#02x after the end of the data", s.ID(), b[0])
	}
	if err != io.EOF {
		return fmt.Errorf("stream %d: expected EOF, saw: %w", s.ID(), err)
	}
	return nil
}

// expectByte reads one byte and compares it with the given one.
func (s *stream) expectByte(want byte) error {
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return fmt.Errorf("stream %d: waiting for %q: %w", s.ID(), want, err)
	}
	if b[0] != want {
		return fmt.Errorf("stream %d: expected %q, got %q", s.ID(), want, b[0])
	}
	return nil
}
