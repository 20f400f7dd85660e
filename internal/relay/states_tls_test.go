package relay

import (
	"errors"
	"os"
	"time"
)

// stayInsideRecord has a TLS record come in three pieces.
func stayInsideRecord(w way, stay func()) {
	w.start()
	w.from.expectEcho(w.to, "hello")
	v := valveOf(w.from)
	v.keep()
	w.from.send(message(1000))
	third := v.amount() / 3
	for range 2 {
		w.release(v, third)
		stay()
		w.to.send("the other way")
		w.from.expect("the other way")
	}
	w.release(v, v.amount())
	w.to.expect(message(1000))
	w.from.expectEcho(w.to, "hello")
}

// stayAfterRecord has some whole TLS records come together with half of the
// next one.
func stayAfterRecord(w way, stay func()) {
	w.start()
	v := valveOf(w.from)
	v.keep()
	w.from.send(message(5000))
	whole := v.amount()
	w.from.send("the next")
	w.release(v, (whole+v.amount())/2)
	w.to.expect(message(5000))
	stay()
	w.release(v, v.amount())
	w.to.expect("the next")
	w.from.expectEcho(w.to, "hello")
}

func (w way) release(v *valve, n int) {
	w.tb.Helper()
	if err := v.release(n); err != nil {
		w.tb.Fatalf("sending: %v", err)
	}
}

func garbageIdle(w way, stay func()) {
	w.onEnded = func(Direction, End) { w.abort() }
	w.start()
	w.from.expectEcho(w.to, "hello")
	stay()
	if _, err := raw(w.from.Conn).Write([]byte("this is not TLS at all")); err != nil {
		w.tb.Fatal(err)
	}
	if end := w.waitEnded(w.d); end.Err == nil || end.Writing || isReset(end.Err) {
		w.tb.Errorf("the direction ended with %+v, want an error of TLS while reading", end)
	}
	w.waitDone()
}

// stayStuck has a peer end its stream, of which the other one cannot be told
// because it does not read.
func stayStuck(w way, stay func()) {
	w.fill()
	w.start()
	w.from.closeWrite()
	w.expectEnded(w.d, End{})
	stay()
	w.to.send("the other way")
	w.from.expect("the other way")
	w.relay.Abort()
	w.waitDone()
}

// fill writes to the destination until its system takes nothing more.
func (w way) fill() {
	w.tb.Helper()
	const wait = 10 * time.Millisecond
	ours := w.conns[w.d.Opposite()]
	setBuffers(ours, 16<<10)
	setBuffers(w.to.Conn, 16<<10)
	block := make([]byte, 64<<10)
	for full := 0; full < 3; full++ {
		_ = raw(ours).SetWriteDeadline(time.Now().Add(wait))
		n, err := raw(ours).Write(block)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.tb.Fatalf("filling: %v", err)
		}
		if n > 0 {
			full = 0
		}
	}
	_ = raw(ours).SetWriteDeadline(time.Time{})
}
