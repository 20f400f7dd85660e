package relay

import (
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// More tunnels in bulk than there are pipes, all of them with receivers that
// do not read: those without pipes are read and written, and all pipes come
// back, also from tunnels that are aborted.
func TestPipesComeBack(t *testing.T) {
	const size = 16 << 20 // more than all buffers hold
	before := pipesInUse()
	all := openers(t)
	allPipes.mu.Lock()
	most := allPipes.limit
	allPipes.mu.Unlock()
	var rigs []*rig
	var senders sync.WaitGroup
	for range most + 10 {
		r := newRig(t, implementations["polled"], all["tcp"], all["tcp"])
		r.inspect = func(_ Direction, p []byte) Verdict { return Verdict{Pass: len(p), Ahead: 1 << 62} }
		r.skip = func(Direction, int) {}
		r.start()
		rigs = append(rigs, r)
		senders.Go(func() {
			_ = r.client.SetWriteDeadline(time.Now().Add(2 * patience))
			_, _ = r.client.Write(make([]byte, size)) // fails where it is aborted
			_ = socket{r.client.Conn}.CloseWrite()
		})
	}
	eventually(t, "all pipes are in use", func() bool { return pipesInUse() == most })
	for i, r := range rigs {
		if i%2 == 0 {
			r.relay.Abort()
			continue
		}
		_ = r.upstream.SetReadDeadline(time.Now().Add(patience))
		if n, err := io.Copy(io.Discard, r.upstream); n != size || err != nil {
			t.Errorf("got %d bytes, error %v, want %d bytes", n, err, size)
		}
	}
	senders.Wait()
	eventually(t, "all pipes are back", func() bool { return pipesInUse() == before })
}

func pipesInUse() int {
	allPipes.mu.Lock()
	defer allPipes.mu.Unlock()
	return allPipes.made - len(allPipes.free)
}

// What makes pipes fail may pass.
func TestPipesAreTriedAgain(t *testing.T) {
	pool := &pipePool{limit: maxPipes}
	withDescriptors(t, 0, func() {
		if pair := pool.take(); pair != nil {
			t.Fatal("there are pipes without descriptors")
		}
	})
	if pair := pool.take(); pair != nil {
		t.Error("pipes are made again at once")
	}
	pool.limited = time.Now().Add(-pipesRetry)
	pair := pool.take()
	if pair == nil {
		t.Fatal("no pipes are made any more")
	}
	pair.held = 1 // so that it is closed
	pool.give(pair)
	if pool.limit != maxPipes || pool.made != 0 {
		t.Errorf("limit %d, made %d, want %d and none", pool.limit, pool.made, maxPipes)
	}
}

func TestBulkIsSplicedWhileItLasts(t *testing.T) {
	const far, near = longFrame / 2, longFrame/2 - 1
	read := func(full bool, ahead uint64) func(*course) {
		return func(c *course) { c.ahead = ahead; c.noteRead(full) }
	}
	spliced := func(n int64) func(*course) { return func(c *course) { c.noteSplice(n) } }
	for _, test := range []struct {
		name  string
		notes []func(*course)
		want  bool
	}{
		{"one full read", []func(*course){read(true, far)}, false},
		{"two", []func(*course){read(true, far), read(true, far)}, true},
		{"not in a row", []func(*course){read(true, far), read(false, far), read(true, far)}, false},
		{"short frames", []func(*course){read(true, far), read(true, near), read(true, far)}, false},
		{"a few short splices", []func(*course){
			read(true, far), read(true, far), spliced(1), spliced(1), spliced(1),
		}, true},
		{"short splices", []func(*course){
			read(true, far), read(true, far), spliced(1), spliced(1), spliced(1), spliced(1),
		}, false},
		{"a long one between them", []func(*course){
			read(true, far), read(true, far), spliced(1), spliced(1), spliced(1), spliced(longFrame), spliced(1),
		}, true},
	} {
		var c course
		for _, note := range test.notes {
			note(&c)
		}
		if got := c.splices > 0; got != test.want {
			t.Errorf("%s: spliced is %t, want %t", test.name, got, test.want)
		}
	}
}

// Whoever is slower than its source always has a chunk in a pipe, and as long as
// others may need that one it reads before it has the next.
func TestSlowReceiversLeavePipesToOthers(t *testing.T) {
	onePairOfPipes(t)
	all := openers(t)
	w := newRig(t, implementations["polled"], all["tcp"], all["tcp"]).way(ClientToUpstream)
	var held atomic.Bool // by a pipe, what the destination does not take
	w.inspect = func(_ Direction, p []byte) Verdict {
		held.Store(false)
		return Verdict{Pass: len(p), Ahead: 1 << 62}
	}
	w.skip = func(Direction, int) {
		if held.Load() {
			t.Error("the pipes are in use all the time")
		}
	}
	w.smallBuffers()
	w.start()
	const size = 16 << 20
	sent := w.from.pour(size)
	left, times := size, 0
	for left > size/2 && !t.Failed() {
		rest, piped := w.waiting()
		switch {
		case piped && !held.Swap(true):
			times++
		case piped, rest:
			w.to.read(64 << 10)
			left -= 64 << 10
		default:
			runtime.Gosched()
		}
	}
	if times < 2 {
		t.Errorf("pipes were in use %d times, want several", times)
	}
	w.to.read(left)
	<-sent
}

// onePairOfPipes leaves one pair in the pool for the time of the test.
func onePairOfPipes(t *testing.T) {
	t.Helper()
	allPipes.give(allPipes.take()) // so that there is one
	allPipes.mu.Lock()
	defer allPipes.mu.Unlock()
	free, was := allPipes.free[1:], allPipes.limit
	allPipes.free, allPipes.limit, allPipes.limited = allPipes.free[:1:1], allPipes.made, time.Now()
	t.Cleanup(func() {
		allPipes.mu.Lock()
		defer allPipes.mu.Unlock()
		allPipes.free, allPipes.limit = append(allPipes.free, free...), was
	})
}
