package main

import (
	"errors"
	"fmt"
	"math/rand"
	"sync/atomic"
	"time"

	"github.com/xtaci/smux"
)

// The bytes that synchronise the two ends.
const (
	startByte   = 'S' // opener to acceptor: the stream is registered, so the acceptor may send
	ackByte     = 'A' // mode bulk: the sender of this byte has received everything
	barrierByte = 'B' // mode close: the sender of this byte is ready to close
)

// answerSize is the number of bytes that close mode sends after the peer's FIN. It is less than any
// window, because smux stops writing when a FIN has come and the window is full.
const answerSize = 10000

// streams runs many short streams. Each carries a payload and its SHA-256 in both directions.
func (p *peer) streams() (string, error) {
	var total uint64
	g := newGroup()
	slots := make(chan struct{}, p.conc)
	for i := 0; i < p.count; i++ {
		rng := rand.New(rand.NewSource(int64(p.seed) + int64(i)*7919))
		if p.opener == "go" {
			select {
			case slots <- struct{}{}:
			case err := <-g.first:
				return "", err
			}
			g.run(func() error {
				defer func() { <-slots }()
				s, err := p.open()
				if err != nil {
					return err
				}
				sent, err := sendMessage(s, rng, p.maxLen)
				if err != nil {
					return err
				}
				got, err := receiveMessage(s)
				if err != nil {
					return err
				}
				if err := s.expectEOF(); err != nil {
					return err
				}
				atomic.AddUint64(&total, uint64(sent+got))
				return s.Close()
			})
			continue
		}
		s, err := p.accept()
		if err != nil {
			select {
			case first := <-g.first: // An error of a stream explains more.
				return "", first
			default:
				return "", fmt.Errorf("after %d streams: %w", i, err)
			}
		}
		g.run(func() error {
			got, err := receiveMessage(s)
			if err != nil {
				return err
			}
			sent, err := sendMessage(s, rng, p.maxLen)
			if err != nil {
				return err
			}
			atomic.AddUint64(&total, uint64(sent+got))
			return s.Close()
		})
	}
	if err := g.wait(); err != nil {
		return "", err
	}
	if n := p.sess.NumStreams(); n != 0 {
		return "", fmt.Errorf("%d streams left open", n)
	}
	if err := p.finish(p.count); err != nil {
		return "", err
	}
	return fmt.Sprintf("OK streams %d bytes %d", p.count, total), nil
}

// patterns returns our data and the peer's. The opener's has the seed -seed, and the acceptor's has
// -seed + 1.
func (p *peer) patterns() (ours, theirs *pattern) {
	opener, acceptor := &pattern{seed: p.seed}, &pattern{seed: p.seed + 1}
	if p.opener == "go" {
		return opener, acceptor
	}
	return acceptor, opener
}

// start opens or accepts the only stream of the modes bulk and close. The acceptor sends nothing
// until the start byte. smux registers a stream only after it has sent the SYN, and drops data that
// arrives before that.
func (p *peer) start() (*stream, error) {
	s, err := p.open()
	if err != nil {
		return nil, err
	}
	if p.opener == "go" {
		_, err = s.Write([]byte{startByte})
		return s, err
	}
	return s, s.expectByte(startByte)
}

// exchange sends and verifies p.bytes bytes of the patterns, both at once.
func (p *peer) exchange(s *stream) error {
	ours, theirs := p.patterns()
	g := newGroup()
	g.run(func() error { return sendPattern(s, ours, p.bytes) })
	g.run(func() error { return receivePattern(s, theirs, p.bytes) })
	return g.wait()
}

// bulk runs one stream with much data in both directions at once.
func (p *peer) bulk() (string, error) {
	s, err := p.start()
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := p.exchange(s); err != nil {
		return "", err
	}
	say("SAW %d bytes each way in %d ms", p.bytes, time.Since(began).Milliseconds())
	if _, err := s.Write([]byte{ackByte}); err != nil {
		return "", fmt.Errorf("writing the ack: %w", err)
	}
	if err := s.expectByte(ackByte); err != nil {
		return "", err
	}
	if p.opener != "go" {
		if err := s.expectEOF(); err != nil {
			return "", err
		}
	}
	if err := s.Close(); err != nil {
		return "", fmt.Errorf("stream close: %w", err)
	}
	if err := p.finish(1); err != nil {
		return "", err
	}
	return "OK bulk", nil
}

// closing closes a stream and then the session, in the order that the flags name.
func (p *peer) closing() (string, error) {
	s, err := p.start()
	if err != nil {
		return "", err
	}
	ours, theirs := p.patterns()
	sendUpTo := func(n uint64) error {
		if n > p.bytes {
			n = p.bytes
		}
		if err := sendPattern(s, ours, n); err != nil {
			return err
		}
		say("SENT %d", n)
		return nil
	}
	send := func() error { return sendUpTo(p.bytes) }
	answer := func() error { return sendUpTo(answerSize) }
	receive := func() error {
		if err := receivePattern(s, theirs, p.bytes); err != nil {
			return err
		}
		say("READ %d", p.bytes)
		return nil
	}
	closeStream := func() error {
		if err := s.Close(); err != nil {
			return fmt.Errorf("stream close: %w", err)
		}
		say("CLOSED")
		return nil
	}
	eof := func() error {
		if err := s.expectEOF(); err != nil {
			return err
		}
		say("EOF")
		return nil
	}
	peerFin := func() error {
		if p.abrupt {
			return nil
		}
		if !p.wire.waitFins(1, p.wait) {
			return errors.New("the peer sent no FIN")
		}
		say("PEERFIN")
		return nil
	}
	noPeerFin := func() error {
		if p.wire.waitFins(1, 0) {
			return errors.New("the peer sent a FIN for a stream that it didn't close")
		}
		return nil
	}
	closeSession := func() error {
		if err := p.sess.Close(); err != nil {
			return fmt.Errorf("session close: %w", err)
		}
		say("SESSION closed here")
		return nil
	}
	barrier := func() error {
		if p.opener == "go" {
			if _, err := s.Write([]byte{barrierByte}); err != nil {
				return err
			}
			return s.expectByte(barrierByte)
		}
		if err := s.expectByte(barrierByte); err != nil {
			return err
		}
		_, err := s.Write([]byte{barrierByte})
		return err
	}
	both := func() error {
		g := newGroup()
		g.run(send)
		g.run(receive)
		return g.wait()
	}

	steps := map[string][]func() error{
		"go":      {send, closeStream, peerFin, closeSession},
		"peer":    {receive, eof, answer, closeStream, p.awaitEnd},
		"both":    {both, barrier, closeStream, peerFin, closeSession},
		"cut":     {send, closeSession},
		"peercut": {receive, eof, noPeerFin, p.awaitEnd},
	}
	for _, step := range steps[p.who] {
		if err := step(); err != nil {
			return "", err
		}
	}
	return "OK close", nil
}

// keepalive lets only NOPs pass for a while. Then it checks one echo.
func (p *peer) keepalive() (string, error) {
	began := time.Now()
	if p.opener == "go" {
		// smux notices a silent peer at the second tick of the timeout at the latest.
		idle := time.Duration(p.ticks) * p.config.KeepAliveInterval
		if twice := 2 * p.config.KeepAliveTimeout; idle < twice && !p.config.KeepAliveDisabled {
			idle = twice
		}
		time.Sleep(idle + p.config.KeepAliveInterval/2)
	}
	s, err := p.open()
	if err != nil {
		return "", err
	}
	nops := p.wire.nopsIn()
	say("SAW %d NOPs in %d ms", nops, time.Since(began).Milliseconds())
	if nops < p.ticks {
		return "", fmt.Errorf("only %d NOPs came in, not %d", nops, p.ticks)
	}
	if p.opener == "go" {
		err = echoOnce(s, rand.New(rand.NewSource(int64(p.seed))), 100)
	} else {
		_, err = serveEcho(s)
	}
	if err != nil {
		return "", err
	}
	if err := p.finish(1); err != nil {
		return "", err
	}
	return "OK keepalive", nil
}

// sum runs an echo server, or its client.
func (p *peer) sum() (string, error) {
	g := newGroup()
	if p.opener == "go" {
		slots := make(chan struct{}, p.conc)
		for i := 0; i < p.count; i++ {
			rng := rand.New(rand.NewSource(int64(p.seed) + int64(i)*7919))
			slots <- struct{}{}
			g.run(func() error {
				defer func() { <-slots }()
				s, err := p.open()
				if err != nil {
					return err
				}
				return echoOnce(s, rng, rng.Intn(p.maxLen+1))
			})
		}
		if err := g.wait(); err != nil {
			return "", err
		}
		if err := p.finish(p.count); err != nil {
			return "", err
		}
		return fmt.Sprintf("OK echo %d", p.count), nil
	}
	n := 0
	var total uint64
	for {
		s, err := p.accept()
		if err != nil {
			say("SESSION %v", errors.Unwrap(err))
			break
		}
		n++
		g.run(func() error {
			b, err := serveEcho(s)
			atomic.AddUint64(&total, b)
			return err
		})
	}
	if err := g.wait(); err != nil {
		say("SAW %v", err) // The client of an echo server may cut a stream.
	}
	say("SAW %d bytes echoed", total)
	return fmt.Sprintf("OK echo %d", n), nil
}

// version reports how a session between different versions ends.
func (p *peer) version() (string, error) {
	deadline := time.Now().Add(p.wait)
	var end error
	if p.opener == "go" {
		s, err := p.open()
		if err == nil {
			_ = s.SetDeadline(deadline)
			if _, err = s.Write([]byte{startByte}); err == nil {
				_, err = s.Read(make([]byte, 1))
			}
		}
		end = err
	} else {
		_ = p.sess.SetDeadline(deadline)
		_, end = p.sess.AcceptStream()
	}
	if end == nil {
		return "", errors.New("nothing went wrong")
	}
	say("SAW session closed=%v", p.sess.IsClosed())
	return fmt.Sprintf("ERR %v", end), nil
}

// named reports how plain smux reacts to a peer that names its streams. It only observes. Nothing
// that the peer does makes this mode fail.
func (p *peer) named() (string, error) {
	var first *smux.Stream
	for i := 1; i <= 3; i++ {
		_ = p.sess.SetDeadline(time.Now().Add(p.wait))
		s, err := p.sess.AcceptStream()
		if err != nil {
			say("SAW accept %d error %v", i, err)
			continue
		}
		say("SAW accept %d stream %d", i, s.ID())
		if first == nil {
			first = s
		}
		_ = s.SetDeadline(time.Now().Add(p.wait))
		buf := make([]byte, 4096)
		n, err := s.Read(buf)
		if err != nil {
			say("SAW read %d error %v", i, err)
		} else {
			say("SAW read %d bytes %q", i, buf[:n])
		}
	}
	if first != nil {
		_ = first.SetDeadline(time.Now().Add(p.wait))
		if _, err := first.Write([]byte("hello")); err != nil {
			say("SAW write error %v", err)
		} else {
			say("SAW write ok")
		}
	}
	if s, err := p.sess.OpenStream(); err != nil {
		say("SAW open error %v", err)
	} else {
		say("SAW open stream %d", s.ID())
	}
	say("SAW session closed=%v", p.sess.IsClosed())
	return "OK named", nil
}
