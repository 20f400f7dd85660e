package outside

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// caller is what a loop calls for in tests. All that happens to it is in its diary, after
// the seconds since the beginning.
type caller struct {
	*Loop[string]
	callee *Callee
	began  time.Time

	mu    sync.Mutex // guards what follows
	next  function
	pause time.Duration // after a call
	last  *Call[string]
	diary []string
}

// newCaller starts a loop that ticks every minute.
func newCaller(t *testing.T, next function) *caller {
	t.Helper()
	c := &caller{callee: newCallee(100), began: time.Now(), next: next}
	tick := func() time.Duration {
		c.note("tick")
		return time.Minute
	}
	begin := func() *Call[string] {
		next, _ := c.plan()
		if next == nil {
			return nil
		}
		c.note("begin")
		call := start(c.callee, next)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.last = call
		return call
	}
	settle := func(call *Call[string]) time.Duration {
		value, _, err := call.Result()
		if err != nil {
			value = err.Error()
		}
		c.note(value)
		_, pause := c.plan()
		return pause
	}
	overdue := func(*Call[string]) { c.note("overdue") }
	c.Loop = NewLoop(Caller[string]{Tick: tick, Begin: begin, Settle: settle, Overdue: overdue})
	c.Start()
	synctest.Wait()
	return c
}

func (c *caller) plan() (next function, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next, c.pause
}

// then changes what is called, and how long is paused after that.
func (c *caller) then(next function, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next, c.pause = next, pause
}

func (c *caller) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.diary = append(c.diary, time.Since(c.began).String()+" "+what)
}

// expect checks what has happened since it was asked last.
func (c *caller) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.diary, want) {
		t.Errorf("there was\n\t%s\nwant\n\t%s", strings.Join(c.diary, "\n\t"), strings.Join(want, "\n\t"))
	}
	c.diary = nil
}

func TestALoopCallsNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCaller(t, gives("a"))
		time.Sleep(time.Minute)
		c.expect(t, "0s tick", "0s begin", "0s a", "1m0s tick", "1m0s begin", "1m0s a")
		c.then(gives("a"), 10*time.Second)
		c.Wake()
		c.expect(t, "1m0s begin", "1m0s a")
		time.Sleep(10 * time.Second)
		c.expect(t, "1m10s tick", "1m10s begin", "1m10s a")
		c.then(nil, 0) // there is nothing to call
		c.Wake()
		time.Sleep(10 * time.Second)
		c.expect(t, "1m20s tick")
		if c.Stop() != nil {
			t.Error("there is still a call")
		}
	})
}

func TestALoopDoesNotWaitForACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := make(chan struct{})
		c := newCaller(t, hangs(released, "late"))
		time.Sleep(2 * time.Minute)
		c.Wake()
		c.Wake()
		c.expect(t, "0s tick", "0s begin", "1s overdue", "1m0s tick", "2m0s tick")
		c.then(gives("a"), 0)
		close(released)
		c.expect(t, "2m0s late", "2m0s begin", "2m0s a")
		c.Stop()
	})
}

func TestALoopMakesAnotherCallForAnAbandonedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := make(chan struct{})
		c := newCaller(t, hangs(released, "abandoned"))
		c.then(gives("a"), 0)
		c.last.Abandon()
		c.expect(t, "0s tick", "0s begin") // it may be that there is nothing to call
		c.Wake()
		c.expect(t, "0s begin", "0s a")
		close(released)
		c.expect(t)
		c.Stop()
	})
}

func TestAStoppedLoopLeavesItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		released := make(chan struct{})
		c := newCaller(t, hangs(released, "a"))
		call := c.Stop()
		if call == nil || call.IsDone() || Join(time.Second, call) {
			t.Fatal("the call is not under way any more")
		}
		close(released)
		if !Join(time.Second, call) {
			t.Error("the call does not come back")
		}
		c.expect(t, "0s tick", "0s begin") // nobody has settled it
	})
}
