package relay

import (
	"errors"
	"net"
	"slices"
)

// state is one in which a relay may be for long. Its test brings a relay there,
// stays, at least once, and then checks that the relay goes on as it has to.
type state struct {
	// from and to are the kinds of connection for which there is such a state;
	// nil means all.
	from, to []string
	test     func(w way, stay func())
}

// states are those that differ in what the relay waits for. Their tests are
// found here and in states_tls_test.go.
var states = map[string]state{
	"idle":                     {nil, nil, stayIdle},
	"half-closed":              {nil, nil, stayHalfClosed},
	"half-closed and reset":    {resettable, nil, resetHalfClosed},
	"stalled":                  {nil, nil, stayStalled},
	"stalled, source reset":    {resettable, nil, resetStalled},
	"stalled, both have ended": {nil, nil, endStalled},
	"inside a TLS record":      {[]string{"tls"}, nil, stayInsideRecord},
	"after a TLS record":       {[]string{"tls"}, nil, stayAfterRecord},
	"close of TLS stuck":       {nil, []string{"tls"}, stayStuck},
}

// endings are what else may come after a relay was idle.
var endings = map[string]state{
	"end":            {nil, nil, endIdle},
	"end of sockets": {nil, nil, leaveIdle},
	"reset":          {resettable, nil, resetIdle},
	"Wake":           {nil, nil, wakeIdle},
	"Abort":          {nil, nil, abortIdle},
	"garbage in TLS": {[]string{"tls"}, nil, garbageIdle},
}

// exists tells whether there is such a state over a pair of kinds.
func (s state) exists(d Direction, kinds [2]string) bool {
	return (s.from == nil || slices.Contains(s.from, kinds[d])) &&
		(s.to == nil || slices.Contains(s.to, kinds[d.Opposite()]))
}

// enter has members of a crowd enter a state, one for each direction of each
// combination there is.
func (c *crowd) enter(name string, s state, among []combination, stay func(m *member)) {
	c.t.Helper()
	for _, comb := range among {
		for d, dname := range []string{"to upstream", "to client"} {
			if !s.exists(Direction(d), comb.kinds) {
				continue
			}
			c.add(comb.name+"/"+dname+"/"+name, func(m *member) {
				s.test(comb.rig(m).way(Direction(d)), func() { stay(m) })
			})
		}
	}
}

func stayIdle(w way, stay func()) {
	w.start()
	w.from.expectEcho(w.to, "hello")
	for _, size := range []int{1, 100_000} {
		stay()
		w.from.expectEcho(w.to, message(size))
	}
}

func endIdle(w way, stay func()) {
	w.start()
	w.from.expectEcho(w.to, "hello")
	stay()
	w.from.closeWrite()
	w.to.expectEnd()
	w.expectEnded(w.d, End{})
	stay()
	w.to.send("still there")
	w.from.expect("still there")
	w.to.closeWrite()
	w.from.expectEnd()
	w.waitDone()
	w.expectEnded(w.d.Opposite(), End{})
}

// leaveIdle has both peers close their sockets, without a word even under TLS.
func leaveIdle(w way, stay func()) {
	w.start()
	w.from.expectEcho(w.to, "hello")
	stay()
	_ = raw(w.from.Conn).Close()
	w.to.expectEnd()
	w.expectEnded(w.d, End{})
	_ = raw(w.to.Conn).Close()
	w.waitDone()
}

func resetIdle(w way, stay func()) {
	w.onEnded = func(Direction, End) { w.abort() }
	w.start()
	w.from.expectEcho(w.to, "hello")
	stay()
	w.from.reset()
	w.waitDone()
	w.expectReset(w.d, false)
}

func wakeIdle(w way, stay func()) {
	w.inspect = func(_ Direction, p []byte) Verdict {
		if len(p) == 0 {
			return Verdict{Insert: []byte("inserted")}
		}
		return Verdict{Pass: len(p), Shut: string(p) == "the last"}
	}
	w.start()
	w.from.expectEcho(w.to, "hello")
	stay()
	w.relay.Wake(w.d)
	w.to.expect("inserted")
	w.from.expectEcho(w.to, "hello")
	w.from.send("the last")
	w.to.expect("the last")
	w.to.expectEnd()
	stay()
	w.from.send("discarded")
	w.to.send("the other way")
	w.from.expect("the other way")
	w.waitTaken(w.d, uint64(len("hello"+"hello"+"the last"+"discarded")))
}

func abortIdle(w way, stay func()) {
	w.start()
	w.from.expectEcho(w.to, "hello")
	stay()
	w.relay.Abort()
	w.waitDone()
	for d := range Direction(2) {
		if end := w.waitEnded(d); !errors.Is(end.Err, net.ErrClosed) {
			w.tb.Errorf("direction %d ended with %+v, want %v", d, end, net.ErrClosed)
		}
	}
}

func stayHalfClosed(w way, stay func()) {
	w.start()
	w.from.closeWrite()
	w.to.expectEnd()
	stay()
	for _, size := range []int{1, 100_000} {
		w.to.send(message(size))
		w.from.expect(message(size))
	}
	w.to.closeWrite()
	w.from.expectEnd()
	w.waitDone()
	w.expectAllTaken(w.d.Opposite(), 100_001)
}

// resetHalfClosed is a reset by a peer from which nothing is read any more.
func resetHalfClosed(w way, stay func()) {
	w.start()
	w.from.closeWrite()
	w.to.expectEnd()
	w.from.reset()
	stay()
	eventually(w.tb, "what is sent is refused", func() bool {
		_, _ = w.to.Write([]byte("lost"))
		return w.hasEnded(w.d.Opposite())
	})
	w.expectReset(w.d.Opposite(), true)
	w.to.closeWrite()
	w.waitDone()
}

// stayStalled has both directions stalled.
func stayStalled(w way, stay func()) {
	const size = 2 << 20
	w.smallBuffers()
	w.start()
	ways := []way{w, w.way(w.d.Opposite())}
	var poured []<-chan struct{}
	for _, w := range ways {
		poured = append(poured, w.pourRepeated(size))
	}
	for _, w := range ways {
		eventually(w.tb, "the direction stalls", w.stall())
	}
	stay()
	var done []<-chan struct{}
	for i, w := range ways {
		done = append(done, poured[i], inBackground(func() { w.expectRepeated(size) }))
	}
	for _, ch := range done {
		<-ch
	}
	w.from.expectEcho(w.to, "hello")
	w.waitTaken(w.d, size+uint64(len("hello")))
}

// resetStalled is a reset by a peer that is not read from, because what it has
// sent before cannot be written.
func resetStalled(w way, stay func()) {
	w.smallBuffers()
	w.start()
	poured := w.keepPouring()
	eventually(w.tb, "the direction stalls", w.stall())
	w.from.reset()
	<-poured
	stay()
	_, taken := w.relay.Counts(w.d)
	if n := w.expectRepeated(-1); n < int(taken) {
		w.tb.Errorf("%d bytes arrived, want at least the %d that were taken", n, taken)
	}
	w.expectReset(w.d, false)
	w.to.closeWrite()
	w.waitDone()
}

// endStalled has both peers end their streams, while one does not read what the
// other has sent before.
func endStalled(w way, stay func()) {
	// So much that the destination does not hold all of it, and so little that
	// the source can get rid of it: systems give it 200 KiB at least, doubled.
	const size = 384 << 10
	w.narrow()
	setBuffers(w.from.Conn, 1<<20)
	w.start()
	w.to.closeWrite()
	w.from.expectEnd()
	<-w.pourRepeated(size)
	w.from.closeWrite()
	eventually(w.tb, "the direction stalls", w.stall())
	stay()
	if n := w.expectRepeated(-1); n != size {
		w.tb.Errorf("%d bytes arrived, want %d", n, size)
	}
	w.waitDone()
	w.expectEnded(w.d, End{})
	w.expectAllTaken(w.d, size)
}
