package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Frames, as smux defines them.
const (
	headerLen = 8

	cmdSYN = 0
	cmdFIN = 1
	cmdPSH = 2
	cmdNOP = 3
	cmdUPD = 4

	// Window of a version 2 sender before the first UPD, in bytes.
	initialWindow = 262144
)

// wireConn is the TCP connection below smux. It counts the frames that pass, and checks the peer's
// frames, because smux itself ignores most faults of a peer.
//
// mu guards everything below it, and is never held across I/O.
type wireConn struct {
	*net.TCPConn
	version   byte
	peerOdd   bool // the peer is the client, so its stream ids are odd
	names     bool // names of streams are expected, and no fault
	linger    time.Duration
	readEnded chan struct{}

	mu        sync.Mutex
	in, out   direction
	streams   map[uint32]*wireStream
	ended     bool
	violation string // the first fault
}

// direction parses the frames of one direction.
type direction struct {
	buf    [headerLen + 8]byte // the header, followed by the payload if it is a UPD
	have   int                 // bytes in buf
	need   int                 // bytes that buf must hold before the frame is parsed
	skip   int                 // payload bytes that are only passed on
	lost   bool                // a frame was unintelligible, so parsing has stopped
	frames [5]int
	bytes  uint64 // payload of PSH frames
	maxPSH int
}

// wireStream is the state of a stream by its frames, seen from the Go side.
type wireStream struct {
	peerFin  bool
	received uint64 // PSH bytes from the peer
	granted  uint64 // the limit of received: the highest edge that we announced
	read     uint64 // consumed bytes, by our last UPD
	sent     uint64 // PSH bytes to the peer
	acked    uint64 // consumed bytes, by the peer's last UPD
}

func newWireConn(c *net.TCPConn, o options) *wireConn {
	return &wireConn{
		TCPConn:   c,
		version:   byte(o.config.Version),
		peerOdd:   o.side == "server",
		names:     o.mode == "named",
		linger:    o.linger,
		readEnded: make(chan struct{}),
		streams:   make(map[uint32]*wireStream),
	}
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feed(&c.in, b[:n], c.inbound)
	if err != nil && !c.ended {
		c.ended = true
		close(c.readEnded)
		if err == io.EOF && !c.in.lost && (c.in.have > 0 || c.in.skip > 0) {
			c.violate("the connection ended inside a frame")
		}
	}
	return n, err
}

// Write records the frames before the bytes are sent, so that an answer can't come first.
func (c *wireConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.feed(&c.out, b, c.outbound)
	c.mu.Unlock()
	return c.TCPConn.Write(b)
}

// Close is called by smux to end a session. With -linger, it first ends only our direction, and
// lets smux's receive loop go on reading.
func (c *wireConn) Close() error {
	if c.linger > 0 && c.CloseWrite() == nil {
		select {
		case <-c.readEnded:
		case <-time.After(c.linger):
		}
	}
	return c.TCPConn.Close()
}

// feed calls f for every frame whose header is in b. For a UPD it calls f when the frame's end is
// in b.
func (c *wireConn) feed(
	d *direction,
	b []byte,
	f func(cmd byte, id uint32, length int, payload []byte),
) {
	for len(b) > 0 && !d.lost {
		if d.skip > 0 {
			n := d.skip
			if n > len(b) {
				n = len(b)
			}
			d.skip -= n
			b = b[n:]
			continue
		}
		if d.have == 0 {
			d.need = headerLen
		}
		n := copy(d.buf[d.have:d.need], b)
		d.have += n
		b = b[n:]
		if d.have < d.need {
			return
		}
		cmd := d.buf[1]
		length := int(binary.LittleEndian.Uint16(d.buf[2:]))
		if d.have == headerLen && cmd == cmdUPD && length == 8 {
			d.need = headerLen + 8
			continue
		}
		if d.buf[0] != c.version || cmd > cmdUPD {
			d.lost = true
			if d == &c.in {
				c.violate("version %d, command %d", d.buf[0], cmd)
			}
			return
		}
		d.frames[cmd]++
		if cmd == cmdPSH {
			d.bytes += uint64(length)
			if length > d.maxPSH {
				d.maxPSH = length
			}
		}
		f(cmd, binary.LittleEndian.Uint32(d.buf[4:]), length, d.buf[headerLen:d.have])
		if d.have == headerLen {
			d.skip = length
		}
		d.have = 0
	}
}

func (c *wireConn) inbound(cmd byte, id uint32, length int, payload []byte) {
	if cmd == cmdNOP {
		if id != 0 || length != 0 {
			c.violate("NOP with stream id %d and length %d", id, length)
		}
		return
	}
	s := c.streams[id]
	if cmd == cmdSYN {
		switch {
		case s != nil:
			c.violate("SYN for stream %d, which isn't new", id)
		case (id%2 == 1) != c.peerOdd:
			c.violate("SYN for stream %d, whose parity is ours", id)
		case length != 0 && !c.names:
			c.violate("SYN for stream %d with a name of %d bytes", id, length)
		}
		if s == nil {
			c.streams[id] = &wireStream{granted: initialWindow}
		}
		return
	}
	if s == nil {
		c.violate("command %d for stream %d, which never was", cmd, id)
		return
	}
	switch cmd {
	case cmdFIN:
		if s.peerFin || length != 0 {
			c.violate("FIN for stream %d: again=%v, length %d", id, s.peerFin, length)
		}
		s.peerFin = true
	case cmdPSH:
		s.received += uint64(length)
		switch {
		case s.peerFin:
			c.violate("PSH for stream %d after its FIN", id)
		case length == 0:
			c.violate("PSH for stream %d without data", id)
		case c.version == 2 && s.received > s.granted:
			c.violate("stream %d received %d bytes, but only %d were granted", id, s.received, s.granted)
		}
	case cmdUPD:
		if c.version != 2 || length != 8 {
			c.violate("UPD for stream %d: version %d, length %d", id, c.version, length)
			return
		}
		consumed := binary.LittleEndian.Uint32(payload)
		step := int32(consumed - uint32(s.acked))
		if step < 0 || s.acked+uint64(step) > s.sent {
			c.violate("UPD for stream %d: consumed %d, after %d; %d were sent",
				id, consumed, s.acked, s.sent)
			return
		}
		s.acked += uint64(step)
	}
}

func (c *wireConn) outbound(cmd byte, id uint32, length int, payload []byte) {
	s := c.streams[id]
	if cmd == cmdSYN && s == nil {
		c.streams[id] = &wireStream{granted: initialWindow}
		return
	}
	if s == nil {
		return
	}
	switch cmd {
	case cmdPSH:
		s.sent += uint64(length)
	case cmdUPD:
		s.read += uint64(binary.LittleEndian.Uint32(payload) - uint32(s.read))
		if edge := s.read + uint64(binary.LittleEndian.Uint32(payload[4:])); edge > s.granted {
			s.granted = edge
		}
	}
}

func (c *wireConn) violate(format string, args ...interface{}) {
	if c.violation == "" {
		c.violation = fmt.Sprintf(format, args...)
	}
}

// waitFins waits until the peer has sent n FINs, at most for wait.
func (c *wireConn) waitFins(n int, wait time.Duration) bool {
	deadline := time.Now().Add(wait)
	for {
		c.mu.Lock()
		fins, ended := c.in.frames[cmdFIN], c.ended
		c.mu.Unlock()
		if fins >= n {
			return true
		}
		if ended || time.Now().After(deadline) {
			return false
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *wireConn) nopsIn() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.frames[cmdNOP]
}

// summary returns the counts of both directions and the peer's first fault.
func (c *wireConn) summary() (in, out, violation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.String(), c.out.String(), c.violation
}

func (d *direction) String() string {
	return fmt.Sprintf("syn=%d fin=%d psh=%d nop=%d upd=%d bytes=%d maxpsh=%d",
		d.frames[cmdSYN], d.frames[cmdFIN], d.frames[cmdPSH], d.frames[cmdNOP],
		d.frames[cmdUPD], d.bytes, d.maxPSH)
}
