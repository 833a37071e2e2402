// The Go peers, smux and hashicorp's yamux. `gopeers PEER WORKLOAD [key=value …]` runs one workload
// once and prints one line of JSON.
//
// The command line, the workloads and the results are the same as in the Rust program
// (`peers/src/blocking.rs`). Each stream has one goroutine at each end. All configurations are the
// defaults, except for smux's version.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

const (
	// Size of a batch of streams.
	batch = 128
	// Number of batches that the opener may be ahead of the acceptor. Three batches are fewer streams
	// than the smallest default backlog that refuses further streams.
	ahead = 3
	// Size of a ping, in bytes.
	pingSize = 64
)

type options map[string]string

func (o options) number(key string, otherwise int) int {
	if n, err := strconv.Atoi(o[key]); err == nil {
		return n
	}
	return otherwise
}

func (o options) seconds(key string, otherwise float64) time.Duration {
	if s, err := strconv.ParseFloat(o[key], 64); err == nil {
		otherwise = s
	}
	return time.Duration(otherwise * float64(time.Second))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func print(result map[string]interface{}) {
	line, err := json.Marshal(result)
	check(err)
	fmt.Println(string(line))
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		fmt.Println(strings.TrimPrefix(runtime.Version(), "go"))
		return
	}
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: gopeers PEER WORKLOAD [key=value ...]")
		os.Exit(2)
	}
	o := options{}
	for _, arg := range os.Args[3:] {
		if i := strings.IndexByte(arg, '='); i > 0 {
			o[arg[:i]] = arg[i+1:]
		}
	}
	peer := os.Args[1]
	switch os.Args[2] {
	case "bulk":
		runBulk(peer, o)
	case "ping":
		runPing(peer, o)
	case "openclose":
		runOpenClose(peer, o)
	case "serve-ping":
		echo(accept(listen(peer, o)))
	case "dial-ping":
		pingOn(open(dial(peer, o)), o)
	case "serve-idle":
		serveIdle(peer, o)
	case "dial-idle":
		dialIdle(peer, o)
	case "serve-sink":
		sink(accept(listen(peer, o)), o)
	case "dial-source":
		source(open(dial(peer, o)))
	default:
		fmt.Fprintln(os.Stderr, "no workload", os.Args[2])
		os.Exit(2)
	}
}

func open(s session) io.ReadWriteCloser {
	stream, err := s.open()
	check(err)
	return stream
}

func accept(s session) io.ReadWriteCloser {
	stream, err := s.accept()
	check(err)
	return stream
}

func listen(peer string, o options) session {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println("ADDR", listener.Addr())
	conn, err := listener.Accept()
	check(err)
	return newSession(peer, conn, false, o)
}

func dial(peer string, o options) session {
	conn, err := net.Dial("tcp", o["addr"])
	check(err)
	return newSession(peer, conn, true, o)
}

// Returns the two ends of a connection, both in this process.
func pair(peer string, o options) (session, session) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	a, err := net.Dial("tcp", listener.Addr().String())
	check(err)
	b, err := listener.Accept()
	check(err)
	return newSession(peer, a, true, o), newSession(peer, b, false, o)
}
