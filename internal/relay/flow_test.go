package relay

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// What tests with many bytes or many relays have in common.

// amount is how much of something a test takes: many if LONG is set, as in
// continuous integration, or few.
func amount(many, few int) int {
	if os.Getenv("LONG") != "" {
		return many
	}
	return few
}

// repeated is what keepPouring and pourRepeated send, again and again.
var repeated = message(1 << 20)

// pourRepeated sends size bytes in pieces of any size, no matter how long that
// takes.
func (w way) pourRepeated(size int) <-chan struct{} {
	return inBackground(func() {
		for sent := 0; sent < size; {
			piece := repeated[sent%len(repeated):]
			piece = piece[:min(len(piece), size-sent, 1+rand.IntN(200_000))]
			if _, err := io.WriteString(w.from, piece); err != nil {
				w.tb.Errorf("sending: %v", err)
				return
			}
			sent += len(piece)
		}
	})
}

// expectRepeated reads size bytes, or to the end if size is negative, and
// returns how many there were of what pourRepeated sends.
func (w way) expectRepeated(size int) int {
	w.tb.Helper()
	var got comparison
	w.expectMore(&got, size)
	return int(got)
}

// expectMore is expectRepeated after some has been read.
func (w way) expectMore(got *comparison, size int) {
	w.tb.Helper()
	source := io.Reader(patient(w.to))
	if size >= 0 {
		source = io.LimitReader(source, int64(size)-int64(*got))
	}
	if _, err := io.Copy(got, source); err != nil || int(*got) < size {
		w.tb.Errorf("after %d bytes: %v", *got, err)
		w.relay.Abort() // nobody takes what is still sent
	}
}

// patient is a reader for which each read may take its time.
type patient end

func (p patient) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(patience))
	return p.Conn.Read(b)
}

// comparison counts what is written to it, which has to be what is repeated.
type comparison int

var errDifferent = errors.New("these are not the bytes that were sent")

func (c *comparison) Write(p []byte) (int, error) {
	for written := 0; written < len(p); {
		want := repeated[int(*c)%len(repeated):]
		n := min(len(want), len(p)-written)
		if string(p[written:written+n]) != want[:n] {
			return written, errDifferent
		}
		written += n
		*c += comparison(n)
	}
	return len(p), nil
}

func inBackground(do func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	return done
}

// stall returns a function that is called now and then until it tells that a
// write in the direction has made no progress for a while.
func (w way) stall() func() bool {
	const enough = 100 // calls
	same, lastRead, lastTaken := 0, uint64(0), uint64(0)
	return func() bool {
		read, taken := w.relay.Counts(w.d)
		if read == taken || read != lastRead || taken != lastTaken {
			same, lastRead, lastTaken = 0, read, taken
			return false
		}
		same++
		return same >= enough
	}
}

// narrow makes the system hold little more than 256 KiB at most on the way to the
// destination. A receiver's buffer must not be made smaller: in loopback's
// segments of 64 KiB, what comes later would have to wait for timers. But it must
// not grow, which it does by itself when a sender is slow and its segments are small.
func (w way) narrow() {
	setBuffers(w.conns[w.d.Opposite()], 32<<10)
	if s, ok := raw(w.to.Conn).(interface{ SetReadBuffer(bytes int) error }); ok {
		_ = s.SetReadBuffer(64 << 10) // doubled, the default
	}
}

func setBuffers(c net.Conn, size int) {
	if s, ok := raw(c).(interface {
		SetReadBuffer(bytes int) error
		SetWriteBuffer(bytes int) error
	}); ok {
		_ = s.SetReadBuffer(size)
		_ = s.SetWriteBuffer(size)
	}
}

func (h *recorder) expectEnded(d Direction, want End) {
	h.tb.Helper()
	if end := h.waitEnded(d); end != want {
		h.tb.Errorf("direction %d ended with %+v, want %+v", d, end, want)
	}
}

func (h *recorder) expectReset(d Direction, writing bool) {
	h.tb.Helper()
	if end := h.waitEnded(d); !isReset(end.Err) || end.Writing != writing {
		h.tb.Errorf("direction %d ended with %+v, want a reset, writing: %t", d, end, writing)
	}
}
