package outside

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

var (
	errDown    = errors.New("it is down")
	errTooMany = errors.New("too many are lost")
)

func newCallee(maxLost int) *Callee {
	return &Callee{Name: "the storage", MaxLost: maxLost, TooMany: errTooMany}
}

// function is what is called in tests.
type function = func(context.Context) (string, error)

func gives(value string) function {
	return func(context.Context) (string, error) { return value, nil }
}

// hangs returns what comes back when it is released, whatever its context says.
func hangs(released <-chan struct{}, value string) function {
	return func(context.Context) (string, error) {
		<-released
		return value, nil
	}
}

func start(callee *Callee, f function) *Call[string] {
	return Start(context.Background(), time.Second, callee, f)
}

func TestACallBringsWhatTheCodeDoes(t *testing.T) {
	for name, test := range map[string]struct {
		f      function
		value  string
		err    string
		inTime bool
	}{
		"a value":                {gives("a"), "a", "", true},
		"an error":               {func(context.Context) (string, error) { return "", errDown }, "", "it is down", true},
		"a panic":                {func(context.Context) (string, error) { panic("a bug") }, "", "the storage has panicked: a bug", true},
		"the end of a goroutine": {func(context.Context) (string, error) { runtime.Goexit(); return "", nil }, "", "the storage has ended the goroutine", true},
		"a late value":           {func(context.Context) (string, error) { time.Sleep(time.Minute); return "b", nil }, "b", "", false},
		"the end of its time": {func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}, "", context.DeadlineExceeded.Error(), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				callee := newCallee(1)
				c := start(callee, test.f)
				<-c.Done()
				value, inTime, err := c.Result()
				said := ""
				if err != nil {
					said = err.Error()
				}
				if value != test.value || said != test.err || inTime != test.inTime {
					t.Errorf("got %q, in time: %t, %v; want %q, %t, %s", value, inTime, err, test.value, test.inTime, test.err)
				}
				synctest.Wait()
				if c.IsLate() || callee.Lost() != 0 {
					t.Errorf("it is late: %t, and %d calls are lost", c.IsLate(), callee.Lost())
				}
			})
		})
	}
}

func TestLostCallsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		callee, released := newCallee(2), make(chan struct{})
		late := start(callee, hangs(released, "late"))
		abandoned := start(callee, hangs(released, ""))
		abandoned.Abandon()
		synctest.Wait()
		if callee.Lost() != 1 || late.IsLate() || !abandoned.IsLate() {
			t.Errorf("%d calls are lost, want the abandoned one", callee.Lost())
		}
		<-start(callee, gives("")).Done()
		<-late.Late()
		synctest.Wait()
		if callee.Lost() != 2 || !late.IsLate() {
			t.Errorf("%d calls are lost, want 2", callee.Lost())
		}
		called := false
		refused := start(callee, func(context.Context) (string, error) { called = true; return "", nil })
		if _, _, err := refused.Result(); !refused.IsDone() || !errors.Is(err, errTooMany) {
			t.Errorf("the third is done: %t, and fails with %v", refused.IsDone(), err)
		}
		close(released)
		synctest.Wait()
		if callee.Lost() != 0 || called {
			t.Errorf("%d calls are lost in the end; the third was made: %t", callee.Lost(), called)
		}
		<-start(callee, gives("")).Done()
	})
}

func TestACallEndsWithTheContextOfWhoMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := Start(ctx, time.Hour, newCallee(1), func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
		cancel()
		<-c.Done()
		if _, inTime, err := c.Result(); inTime || !errors.Is(err, context.Canceled) {
			t.Errorf("in time: %t, %v", inTime, err)
		}
	})
}

func TestJoinIsLimitedForAllTogether(t *testing.T) {
	takes := func(d time.Duration) function {
		return func(context.Context) (string, error) {
			time.Sleep(d)
			return "", nil
		}
	}
	for name, test := range map[string]struct {
		calls []time.Duration
		want  bool
		takes time.Duration
	}{
		"none":             {nil, true, 0},
		"in time":          {[]time.Duration{time.Second, 2 * time.Second}, true, 2 * time.Second},
		"one of them late": {[]time.Duration{time.Minute, time.Second, time.Minute}, false, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls []*Call[string]
				for _, d := range test.calls {
					calls = append(calls, start(newCallee(1), takes(d)))
				}
				began := time.Now()
				got := Join(3*time.Second, calls...)
				if took := time.Since(began); got != test.want || took != test.takes {
					t.Errorf("joined: %t after %v, want %t after %v", got, took, test.want, test.takes)
				}
				Join(time.Hour, calls...)
			})
		})
	}
}
