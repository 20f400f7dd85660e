package events

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// handler is what gets the events of a configuration.
type handler struct {
	*Outlet

	logs *observer.ObservedLogs

	mu  sync.Mutex
	got []string
	// before is called before an event is taken.
	before func(name string)
}

// join has events come out at a handler that wants some of them.
func join(p *Process, wanted ...string) *handler {
	core, logs := observer.New(zapcore.InfoLevel)
	h := &handler{logs: logs, before: func(string) {}}
	h.Outlet = p.newOutlet(zap.New(core), func(name string) bool { return slices.Contains(wanted, name) },
		func(name string, data map[string]any) {
			h.before(name)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.got = append(h.got, fmt.Sprint(name, " ", data["n"]))
		})
	return h
}

func (h *handler) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.got, want) {
		t.Errorf("the handler has got %q, want %q", h.got, want)
	}
	h.got = nil
}

func expectDropped(t *testing.T, p *Process, want uint64) {
	t.Helper()
	if got := p.Dropped(); got != want {
		t.Errorf("%d events were dropped, want %d", got, want)
	}
}

func TestEventsComeInOrderToTheNewestConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Process
		p.Emit(QueueFull, Data{"n": 0}) // to nobody
		old, next := join(&p, QueueFull, UpstreamUp), join(&p, QueueFull)
		p.Emit(QueueFull, Data{"n": 1}) // they are loaded, but not in force
		old.open()
		p.Emit(QueueFull, Data{"n": 2})
		p.Emit(UpstreamUp, Data{"n": 3})
		p.Emit(UpstreamDown, Data{"n": 4}) // which it does not want
		old.expect(t, "queue_full 2", "upstream_up 3")
		next.open()
		next.open()
		p.Emit(QueueFull, Data{"n": 5})
		p.Emit(UpstreamUp, Data{"n": 6})
		next.expect(t, "queue_full 5")
		next.Leave() // it has failed to load after all
		p.Emit(QueueFull, Data{"n": 7})
		old.expect(t, "queue_full 7")
		old.Leave()
		old.Leave()
		p.Emit(QueueFull, Data{"n": 8})
		old.open() // too late
		p.Emit(QueueFull, Data{"n": 9})
		old.expect(t)
		expectDropped(t, &p, 0)
	})
}

func TestLeavingWithoutHavingBeenInForce(t *testing.T) {
	var none *Outlet
	none.Leave()
	var p Process
	join(&p, QueueFull).Leave()
}

func TestAHandlerThatBlocksCostsEventsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Process
		stuck := join(&p, QueueFull)
		free := make(chan struct{})
		stuck.before = func(string) { <-free }
		stuck.open()
		p.Emit(QueueFull, nil)
		synctest.Wait()
		const lost = 10
		for range capacity + lost {
			p.Emit(QueueFull, nil)
		}
		expectDropped(t, &p, lost)
		if n := stuck.logs.FilterLevelExact(zapcore.WarnLevel).Len(); n != 1 {
			t.Errorf("%d lines tell of it, want 1", n)
		}
		began := time.Now()
		stuck.Leave()
		if took := time.Since(began); took != patience {
			t.Errorf("leaving has taken %v, want %v", took, patience)
		}
		expectDropped(t, &p, lost+capacity)
		close(free)
		<-stuck.ended
	})
}

func TestASlowHandlerIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Process
		slow := join(&p, QueueFull)
		free := make(chan struct{})
		slow.before = func(string) { <-free }
		slow.open()
		for range 2 * capacity { // each of which takes two events of the handler's time
			p.Emit(QueueFull, nil)
			p.Emit(QueueFull, nil)
			synctest.Wait()
			free <- struct{}{}
			synctest.Wait()
		}
		warnings := func() int { return slow.logs.FilterLevelExact(zapcore.WarnLevel).Len() }
		if n := warnings(); n != 1 {
			t.Errorf("%d lines tell of it, want 1", n)
		}
		for len(slow.queue) > 0 {
			free <- struct{}{}
			synctest.Wait()
		}
		for range 2 * capacity {
			p.Emit(QueueFull, nil)
		}
		if n := warnings(); n != 2 {
			t.Errorf("%d lines tell that it is so again, want 2", n)
		}
		close(free)
		slow.Leave()
	})
}

func TestWhatWaitsGoesToTheNextConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Process
		stuck, next := join(&p, QueueFull, UpstreamUp), join(&p, QueueFull)
		free := make(chan struct{})
		stuck.before = func(string) { <-free }
		stuck.open()
		p.Emit(QueueFull, Data{"n": 1})
		synctest.Wait()
		p.Emit(QueueFull, Data{"n": 2})
		p.Emit(UpstreamUp, Data{"n": 3}) // which the next one does not want
		next.open()
		p.Emit(QueueFull, Data{"n": 4})
		next.expect(t, "queue_full 4")
		stuck.Leave()
		next.expect(t, "queue_full 2")
		close(free)
		stuck.expect(t, "queue_full 1")
		next.Leave()
		expectDropped(t, &p, 0)
	})
}

func TestTheLastEventsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Process
		h := join(&p, QueueFull)
		h.before = func(string) { time.Sleep(patience / 10) }
		h.open()
		var want []string
		for i := range 5 {
			p.Emit(QueueFull, Data{"n": i})
			want = append(want, fmt.Sprint("queue_full ", i))
		}
		h.Leave()
		h.expect(t, want...)
		expectDropped(t, &p, 0)
	})
}

func TestAHandlerThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Process
		h := join(&p, QueueFull, UpstreamUp)
		h.before = func(name string) {
			if name == UpstreamUp {
				panic("at the handler")
			}
		}
		h.open()
		p.Emit(UpstreamUp, nil)
		p.Emit(QueueFull, Data{"n": 1})
		h.expect(t, "queue_full 1")
		h.Leave()
		if n := h.logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 1 {
			t.Errorf("%d lines tell of it, want 1", n)
		}
	})
}

func TestSomeEventsAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Process
		h := join(&p, QueueFull, UpstreamUp)
		h.open()
		for i := range 25 {
			p.EmitRarely(time.Second, QueueFull, "chat", Data{"n": i})
			time.Sleep(100 * time.Millisecond)
		}
		p.EmitRarely(time.Second, UpstreamUp, "chat", Data{"n": 0})
		p.EmitRarely(time.Second, QueueFull, "feed", Data{"n": 100}) // which is not hidden by the other
		h.expect(t, "queue_full 0", "queue_full 10", "queue_full 20", "upstream_up 0", "queue_full 100")
		time.Sleep(time.Second)
		p.EmitRarely(time.Second, QueueFull, "feed", nil)
		if len(p.rare) != 1 {
			t.Errorf("%d times are kept, want that of the last event", len(p.rare))
		}
		h.Leave()
	})
}
