package main

// The data of streams: messages with a checksum, the pattern, echoes.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"sync"
	"sync/atomic"
)

// chunkSize is the size of one read or write of bulk data, in bytes.
const chunkSize = 64 << 10

var earlyEndCount uint64

func countEarlyEnd() { atomic.AddUint64(&earlyEndCount, 1) }

func earlyEnds() uint64 { return atomic.LoadUint64(&earlyEndCount) }

// group runs functions and keeps the first error. That error also wakes wait.
type group struct {
	wg    sync.WaitGroup
	once  sync.Once
	first chan error
}

func newGroup() *group { return &group{first: make(chan error, 1)} }

func (g *group) run(f func() error) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		if err := f(); err != nil {
			g.once.Do(func() { g.first <- err })
		}
	}()
}

func (g *group) wait() error {
	done := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(done)
	}()
	select {
	case err := <-g.first:
		return err
	case <-done:
		select {
		case err := <-g.first:
			return err
		default:
			return nil
		}
	}
}

// sendMessage writes a length (u32 LE), as many random bytes, and their SHA-256.
func sendMessage(s *stream, rng *rand.Rand, maxLen int) (int, error) {
	n := rng.Intn(maxLen + 1)
	msg := make([]byte, 4+n, 4+n+sha256.Size)
	binary.LittleEndian.PutUint32(msg, uint32(n))
	rng.Read(msg[4:])
	sum := sha256.Sum256(msg[4:])
	msg = append(msg, sum[:]...)
	if _, err := s.Write(msg); err != nil {
		return 0, fmt.Errorf("stream %d: write: %w", s.ID(), err)
	}
	return n, nil
}

func receiveMessage(s *stream) (int, error) {
	var head [4]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return 0, fmt.Errorf("stream %d: reading the length: %w", s.ID(), err)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > 1<<24 {
		return 0, fmt.Errorf("stream %d: absurd length %d", s.ID(), n)
	}
	body := make([]byte, n+sha256.Size)
	if got, err := io.ReadFull(s, body); err != nil {
		return 0, fmt.Errorf("stream %d: after %d of %d bytes: %w", s.ID(), got, len(body), err)
	}
	sum := sha256.Sum256(body[:n])
	if !bytes.Equal(sum[:], body[n:]) {
		return 0, fmt.Errorf("stream %d: checksum of %d bytes doesn't match", s.ID(), n)
	}
	return int(n), nil
}

// pattern is SplitMix64's output, eight bytes to a word, little-endian.
type pattern struct {
	seed, pos uint64
}

func (p *pattern) fill(b []byte) {
	for len(b) > 0 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], mix(p.seed+(p.pos/8+1)*0x9E3779B97F4A7C15))
		n := copy(b, word[p.pos%8:])
		p.pos += uint64(n)
		b = b[n:]
	}
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

func sendPattern(s *stream, pat *pattern, n uint64) error {
	buf := make([]byte, chunkSize)
	for sent := uint64(0); sent < n; {
		chunk := buf
		if left := n - sent; left < chunkSize {
			chunk = buf[:left]
		}
		pat.fill(chunk)
		w, err := s.Write(chunk)
		sent += uint64(w)
		if err == nil && w != len(chunk) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return fmt.Errorf("stream %d: write after %d of %d bytes: %w", s.ID(), sent, n, err)
		}
	}
	return nil
}

func receivePattern(s *stream, pat *pattern, n uint64) error {
	buf, want := make([]byte, chunkSize), make([]byte, chunkSize)
	for got := uint64(0); got < n; {
		chunk := buf
		if left := n - got; left < chunkSize {
			chunk = buf[:left]
		}
		r, err := s.Read(chunk)
		if err != nil {
			return fmt.Errorf("stream %d: read after %d of %d bytes: %w", s.ID(), got, n, err)
		}
		pat.fill(want[:r])
		if !bytes.Equal(chunk[:r], want[:r]) {
			i := 0
			for chunk[i] == want[i] {
				i++
			}
			return fmt.Errorf("stream %d: byte %d is %#02x, not %#02x",
				s.ID(), got+uint64(i), chunk[i], want[i])
		}
		got += uint64(r)
	}
	return nil
}

// echoOnce sends n random bytes, checks that they come back, and closes.
func echoOnce(s *stream, rng *rand.Rand, n int) error {
	out, in := make([]byte, n), make([]byte, n)
	rng.Read(out)
	g := newGroup()
	g.run(func() error {
		_, err := s.Write(out)
		return err
	})
	g.run(func() error {
		_, err := io.ReadFull(s, in)
		return err
	})
	if err := g.wait(); err != nil {
		return fmt.Errorf("stream %d: echo: %w", s.ID(), err)
	}
	if !bytes.Equal(out, in) {
		return fmt.Errorf("stream %d: the echo of %d bytes differs", s.ID(), n)
	}
	return s.Close()
}

// serveEcho sends all received bytes back, up to EOF, and closes.
func serveEcho(s *stream) (uint64, error) {
	defer s.Close()
	var n uint64
	buf := make([]byte, chunkSize)
	for {
		r, err := s.Read(buf)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("stream %d: echo read: %w", s.ID(), err)
		}
		if _, err := s.Write(buf[:r]); err != nil {
			return n, fmt.Errorf("stream %d: echo write: %w", s.ID(), err)
		}
		n += uint64(r)
	}
}
