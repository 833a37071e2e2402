package main

import (
	"fmt"
	"io"
	"net"
	"os"

	yamux "github.com/hashicorp/yamux"
	"github.com/xtaci/smux"
)

// One end of a connection.
type session interface {
	open() (io.ReadWriteCloser, error)
	accept() (io.ReadWriteCloser, error)
}

type smuxSession struct{ *smux.Session }

func (s smuxSession) open() (io.ReadWriteCloser, error)   { return s.OpenStream() }
func (s smuxSession) accept() (io.ReadWriteCloser, error) { return s.AcceptStream() }

type yamuxSession struct{ *yamux.Session }

func (s yamuxSession) open() (io.ReadWriteCloser, error)   { return s.OpenStream() }
func (s yamuxSession) accept() (io.ReadWriteCloser, error) { return s.AcceptStream() }

// Makes a session over a TCP connection. Go itself sets TCP_NODELAY on every TCP connection. The
// configurations are the defaults, except for smux's version.
func newSession(peer string, conn net.Conn, client bool, o options) session {
	switch peer {
	case "smux":
		config := smux.DefaultConfig()
		config.Version = o.number("v", 1)
		make := smux.Server
		if client {
			make = smux.Client
		}
		s, err := make(conn, config)
		check(err)
		return smuxSession{s}
	case "hyamux":
		make := yamux.Server
		if client {
			make = yamux.Client
		}
		s, err := make(conn, nil)
		check(err)
		return yamuxSession{s}
	}
	fmt.Fprintln(os.Stderr, "no peer", peer)
	os.Exit(2)
	return nil
}
