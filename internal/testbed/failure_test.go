package testbed_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// recorder is a TB that keeps failures instead of failing the test. It panics
// where the real one would be misused.
type recorder struct {
	testing.TB
	ctx context.Context

	mu       sync.Mutex // guards what follows
	failures []string
	cleanups []func()
	over     bool
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		panic("failure reported after the test has ended: " + fmt.Sprintf(format, args...))
	}
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	r.FailNow()
}

// FailNow is only for the goroutine of the test, which is the one in runTest.
func (r *recorder) FailNow() {
	stack := make([]byte, 1<<16)
	if !strings.Contains(string(stack[:runtime.Stack(stack, false)]), "runTest") {
		panic("FailNow called outside the goroutine of the test")
	}
	runtime.Goexit()
}

func (r *recorder) Logf(string, ...any) {}

func (r *recorder) Context() context.Context { return r.ctx }

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// failuresOf runs a test from its start to the last cleanup.
func failuresOf(t *testing.T, test func(tb testing.TB)) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &recorder{TB: t, ctx: ctx}
	done := make(chan struct{})
	go runTest(r, test, done)
	<-done
	cancel()
	for f := r.lastCleanup(); f != nil; f = r.lastCleanup() {
		f()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	return r.failures
}

func (r *recorder) lastCleanup() (f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.cleanups); n > 0 {
		f, r.cleanups = r.cleanups[n-1], r.cleanups[:n-1]
	}
	return f
}

func runTest(tb testing.TB, test func(tb testing.TB), done chan<- struct{}) {
	tb.Helper()
	defer close(done)
	test(tb)
}

// Each mistake is told once, by the side that sees it.
func TestFailuresAreReported(t *testing.T) {
	tests := map[string]struct {
		want string
		test func(tb testing.TB)
	}{
		"a read waits in vain": {
			"client: reading a frame: nothing happened before the deadline",
			func(tb testing.TB) {
				tb.Helper()
				c := testbed.Dial(tb, testbed.NewUpstream(tb, testbed.BlackHole).Addr)
				c.SetTimeout(10 * time.Millisecond)
				c.ReadFrame()
			},
		},
		"the accept key is wrong": {
			"client: handshake response has not exactly one Sec-WebSocket-Accept, s3pPLMBiTxaQ9kYGzzhZRbK+xOo=:\n" +
				"HTTP/1.1 101 Switching Protocols\r\n",
			func(tb testing.TB) {
				tb.Helper()
				u := testbed.NewUpstream(tb, testbed.EchoWith("Sec-WebSocket-Accept: no"))
				testbed.Dial(tb, u.Addr).Handshake("/")
			},
		},
		"the request is no handshake": {
			"upstream, connection 1: handshake request has no Connection: Upgrade:\nGET / HTTP/1.1\r\n",
			func(tb testing.TB) {
				tb.Helper()
				c := testbed.Dial(tb, testbed.NewUpstream(tb, testbed.Echo).Addr)
				c.Send(testbed.HandshakeRequest("/", "localhost", "Connection:"))
				c.ExpectEOF()
			},
		},
		"a frame is unmasked": {
			"upstream, connection 1: got frame{fin true, rsv 0, opcode 0x1, masked false, 2 bytes " +
				`"hi"}, want it masked`,
			func(tb testing.TB) {
				tb.Helper()
				c := testbed.Dial(tb, testbed.NewUpstream(tb, testbed.Echo).Addr)
				c.Handshake("/")
				c.Send("\x81\x02hi")
				c.ExpectEOF()
			},
		},
		"a length is not minimal": {
			"client: reading a frame: payload length is not encoded in the fewest bytes",
			func(tb testing.TB) {
				tb.Helper()
				u := testbed.NewUpstream(tb, testbed.Respond("\x82\x7E\x00\x01x"))
				c := testbed.Dial(tb, u.Addr)
				c.Send(testbed.HandshakeRequest("/", "localhost"))
				c.ReadFrame()
			},
		},
		"bytes come before the end": {
			`client: got "more", want a clean end`,
			func(tb testing.TB) {
				tb.Helper()
				c := testbed.Dial(tb, testbed.NewUpstream(tb, testbed.Respond("more")).Addr)
				c.Send(testbed.HandshakeRequest("/", "localhost"))
				c.ExpectEOF()
			},
		},
		"a header never ends": {
			"client: reading a response: head is longer than 1 MiB",
			func(tb testing.TB) {
				tb.Helper()
				c := testbed.Dial(tb, testbed.NewUpstream(tb, testbed.EndlessHeaders).Addr)
				c.Handshake("/")
			},
		},
		"the peer of a script goes too early": {
			"upstream, connection 1: reading a frame: EOF",
			func(tb testing.TB) {
				tb.Helper()
				u := testbed.NewUpstream(tb, readOneFrame)
				testbed.Dial(tb, u.Addr).Close()
				u.WaitAccepted(tb, 1)
				u.WaitOpen(tb, 0)
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := failuresOf(t, test.test)
			if len(got) != 1 || !strings.HasPrefix(got[0], test.want) {
				t.Errorf("got failures %q, want one: %q", got, test.want)
			}
		})
	}
}

func TestProblemsAreExpected(t *testing.T) {
	bad := errors.New("it is bad")
	for name, test := range map[string]struct {
		err   error
		want  string
		fails bool
	}{
		"none": {nil, "", false}, "this": {bad, "is bad", false},
		"none, but there is": {bad, "", true}, "one that is not there": {nil, "bad", true}, "another": {bad, "worse", true},
	} {
		got := failuresOf(t, func(tb testing.TB) {
			tb.Helper()
			testbed.ExpectProblem(tb, test.err, test.want)
		})
		if (len(got) == 1) != test.fails || len(got) > 1 {
			t.Errorf("%s: got failures %q, want some: %t", name, got, test.fails)
		}
	}
}

func TestWhatIsMissingFailsInContinuousIntegration(t *testing.T) {
	t.Setenv("CI", "true")
	got := failuresOf(t, func(tb testing.TB) {
		tb.Helper()
		testbed.Program(tb, "no-such-program")
	})
	if len(got) != 1 || !strings.HasPrefix(got[0], "there is no no-such-program: ") {
		t.Errorf("got failures %q, want one", got)
	}
	t.Setenv("CI", "")
	elsewhere := new(skipRecorder)
	testbed.Program(elsewhere, "no-such-program")
	if !elsewhere.skipped {
		t.Error("was not skipped elsewhere")
	}
}

// skipRecorder is a test that only notes that it is skipped.
type skipRecorder struct {
	testing.TB

	skipped bool
}

func (*skipRecorder) Helper()                {}
func (r *skipRecorder) Skipf(string, ...any) { r.skipped = true }

func TestTeardownIsNoFailure(t *testing.T) {
	for name, script := range map[string]testbed.Script{
		"echo":                     testbed.Echo,
		"silent":                   testbed.Silent,
		"black hole":               testbed.BlackHole,
		"script waiting for frame": readOneFrame,
		"no script":                nil,
	} {
		t.Run(name, func(t *testing.T) {
			got := failuresOf(t, func(tb testing.TB) {
				tb.Helper()
				u := testbed.NewUpstream(tb, script)
				c := testbed.Dial(tb, u.Addr)
				testbed.Go(tb, func(tb testing.TB) {
					tb.Helper()
					c2 := testbed.Dial(tb, u.Addr)
					c2.ReadFrame()
				})
				u.WaitAccepted(tb, 2)
				c.Send("GET / HTTP/1.1\r\n")
			})
			if len(got) != 0 {
				t.Errorf("got failures %q, want none", got)
			}
		})
	}
}

func readOneFrame(tb testing.TB, c *testbed.Conn) {
	tb.Helper()
	c.ReadFrame()
}

func TestTeardownEndsWaits(t *testing.T) {
	got := failuresOf(t, func(tb testing.TB) {
		tb.Helper()
		u := testbed.NewUpstream(tb, nil)
		testbed.Go(tb, func(tb testing.TB) {
			tb.Helper()
			u.Next(tb)
		})
		testbed.Go(tb, func(tb testing.TB) {
			tb.Helper()
			u.WaitOpen(tb, 1)
		})
	})
	if len(got) != 0 {
		t.Errorf("got failures %q, want none", got)
	}
}
