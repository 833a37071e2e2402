package main

import (
	"errors"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Returns the processor time of this process in seconds, and the number of times that a thread gave
// up its core to wait.
func usage() (cpu, waits float64) {
	var u syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(u.Utime) + seconds(u.Stime), float64(u.Nvcsw)
}

// Sends bulk data on one or more streams. A writer announces its total before its last write. The
// reader checks the announced total after each read, so it can't miss the end.
func runBulk(peer string, o options) {
	client, server := pair(peer, o)
	streams, write, span := o.number("streams", 1), o.number("write", 128*1024), o.seconds("secs", 0.6)
	amount := uint64(o.number("mib", 0)) * 1024 * 1024 / uint64(streams)
	stride := uint64(1)
	if write < 16*1024 {
		stride = 256
	}
	totals := make([]uint64, streams)
	for i := range totals {
		totals[i] = math.MaxUint64
	}
	cpu, waits := usage()
	start := time.Now()
	var readers sync.WaitGroup
	for i := 0; i < streams; i++ {
		readers.Add(1)
		go func() {
			defer readers.Done()
			drain(accept(server), totals)
		}()
	}
	for i := 0; i < streams; i++ {
		stream := open(client)
		go func(index int) {
			payload := make([]byte, write)
			for i := range payload {
				payload[i] = byte(index)
			}
			for done := uint64(0); ; done++ {
				bytes := (done + 1) * uint64(write)
				last := bytes >= amount
				if amount == 0 {
					last = done%stride == 0 && time.Since(start) >= span
				}
				if last {
					atomic.StoreUint64(&totals[index], bytes)
				}
				_, err := stream.Write(payload)
				check(err)
				if last {
					return
				}
			}
		}(i)
	}
	readers.Wait()
	seconds := time.Since(start).Seconds()
	cpu2, waits2 := usage()
	bytes := 0.0
	for _, total := range totals {
		bytes += float64(total)
	}
	print(map[string]interface{}{
		"bytes_per_s":  bytes / seconds,
		"writes_per_s": bytes / float64(write) / seconds,
		"cpu_s_per_gb": (cpu2 - cpu) / (bytes / 1e9),
		"waits_per_mb": (waits2 - waits) / (bytes / 1e6),
		"bytes":        bytes,
		"frames":       0,
		"seconds":      seconds,
	})
}

func drain(stream io.Reader, totals []uint64) {
	buffer := make([]byte, 128*1024)
	for bytes := uint64(0); ; {
		n, err := stream.Read(buffer)
		check(err)
		bytes += uint64(n)
		if bytes >= atomic.LoadUint64(&totals[buffer[0]]) {
			return
		}
	}
}

func runPing(peer string, o options) {
	client, server := pair(peer, o)
	load, stuck := o.number("load", 0), o.number("stuck", 0)
	var held []io.ReadWriteCloser
	for i := 0; i < load; i++ {
		go source(open(client))
		stream := accept(server)
		if i < stuck {
			held = append(held, stream)
			continue
		}
		go func() {
			buffer := make([]byte, 128*1024)
			for {
				if _, err := stream.Read(buffer); err != nil {
					return
				}
			}
		}()
	}
	stream := open(client)
	go func() { echo(accept(server)) }()
	pingOn(stream, o)
	runtime.KeepAlive(held)
}

func echo(stream io.ReadWriter) {
	buffer := make([]byte, pingSize)
	for {
		if _, err := io.ReadFull(stream, buffer); err != nil {
			return // the other process is done
		}
		_, err := stream.Write(buffer)
		check(err)
	}
}

func pingOn(stream io.ReadWriter, o options) {
	buffer := make([]byte, pingSize)
	span := o.seconds("secs", 0.6)
	var nanos []int64
	start := time.Now()
	for {
		begin := time.Now()
		_, err := stream.Write(buffer)
		check(err)
		_, err = io.ReadFull(stream, buffer)
		check(err)
		now := time.Now()
		if now.Sub(start) > span/10 {
			nanos = append(nanos, int64(now.Sub(begin)))
		}
		if now.Sub(start) >= span {
			break
		}
	}
	sort.Slice(nanos, func(i, j int) bool { return nanos[i] < nanos[j] })
	sum := 0.0
	for _, n := range nanos {
		sum += float64(n)
	}
	at := func(q float64) float64 { return float64(nanos[int(float64(len(nanos)-1)*q)]) / 1e3 }
	print(map[string]interface{}{
		"mean": sum / float64(len(nanos)) / 1e3, "count": len(nanos),
		"p1": at(0.01), "p10": at(0.1), "p25": at(0.25), "p50": at(0.5), "p75": at(0.75), "p90": at(0.9), "p95": at(0.95),
		"p99": at(0.99), "p999": at(0.999),
	})
}

func runOpenClose(peer string, o options) {
	client, server := pair(peer, o)
	span := o.seconds("secs", 0.6)
	accepted := make(chan struct{}, 1024)
	go func() {
		one := make([]byte, 1)
		for n := 1; ; n++ {
			stream := accept(server)
			_, err := io.ReadFull(stream, one)
			check(err)
			stream.Close()
			if n%batch == 0 {
				accepted <- struct{}{}
			}
		}
	}()
	start := time.Now()
	opened, pending := 0, 0
	one := []byte{1}
	for time.Since(start) < span {
		for i := 0; i < batch; i++ {
			stream := open(client)
			_, err := stream.Write(one)
			check(err)
			stream.Close()
		}
		opened += batch
		pending++
		if pending == ahead {
			<-accepted
			pending--
		}
	}
	for ; pending > 0; pending-- {
		<-accepted
	}
	print(map[string]interface{}{"per_s": float64(opened) / time.Since(start).Seconds(), "streams": opened})
}

// Returns the resident memory in bytes. First collects the garbage, and gives free memory back to
// the system.
func resident() float64 {
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	check(err)
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "VmRSS:") {
			kib, err := strconv.Atoi(strings.Fields(line)[1])
			check(err)
			return float64(kib) * 1024
		}
	}
	check(errors.New("no VmRSS in /proc/self/status"))
	return 0
}

func readByte(stream io.Reader) error {
	_, err := io.ReadFull(stream, make([]byte, 1))
	return err
}

func writeByte(stream io.Writer) error {
	_, err := stream.Write([]byte{1})
	return err
}

// Measures the memory of idle streams twice: when all are open and no data was sent, and after a
// ping on each. An extra stream, which is opened first, tells both processes when to measure.
func serveIdle(peer string, o options) {
	n := o.number("n", 10000)
	s := listen(peer, o)
	first := accept(s)
	check(readByte(first))
	before := resident()
	held := make([]io.ReadWriteCloser, 0, n)
	for i := 0; i < n; i++ {
		held = append(held, accept(s))
		check(writeByte(first))
	}
	opened := resident()
	check(readByte(first)) // the client has measured
	buffer := make([]byte, pingSize)
	for _, stream := range held {
		_, err := io.ReadFull(stream, buffer)
		check(err)
		_, err = stream.Write(buffer)
		check(err)
	}
	check(readByte(first)) // all answers have arrived at the client
	printIdle(before, opened, n)
	runtime.KeepAlive(held)
}

func dialIdle(peer string, o options) {
	n := o.number("n", 10000)
	s := dial(peer, o)
	first := open(s)
	check(writeByte(first))
	before := resident()
	held := make([]io.ReadWriteCloser, 0, n)
	for i := 0; i < n; i++ {
		held = append(held, open(s))
		check(readByte(first)) // wait for each stream, so that both ends hold them in the same order
	}
	opened := resident()
	check(writeByte(first))
	buffer := make([]byte, pingSize)
	for _, stream := range held {
		_, err := stream.Write(buffer)
		check(err)
		_, err = io.ReadFull(stream, buffer)
		check(err)
	}
	check(writeByte(first))
	printIdle(before, opened, n)
	_ = readByte(first) // wait until the server has done its own measurement
	runtime.KeepAlive(held)
}

func printIdle(before, opened float64, n int) {
	each := func(now float64) float64 { return math.Max(0, now-before) / float64(n) }
	print(map[string]interface{}{"opened": each(opened), "used": each(resident())})
}

// Counts the bytes that come during the measurement. The warm-up begins with the first read. The
// measurement begins with the first read after the warm-up, whose bytes don't count yet.
func sink(stream io.Reader, o options) {
	warm, span := o.seconds("warm", 1), o.seconds("secs", 1)
	buffer := make([]byte, 128*1024)
	var first, since time.Time
	counted := 0
	for {
		n, err := stream.Read(buffer)
		check(err)
		now := time.Now()
		switch {
		case first.IsZero():
			first = now
		case since.IsZero():
			if now.Sub(first) >= warm {
				since = now
			}
		default:
			counted += n
			if now.Sub(since) >= span {
				print(map[string]interface{}{"bytes_per_s": float64(counted) / now.Sub(since).Seconds()})
				return
			}
		}
	}
}

// Writes until the peer is gone.
func source(stream io.Writer) {
	payload := make([]byte, 128*1024)
	for {
		if _, err := stream.Write(payload); err != nil {
			return
		}
	}
}
