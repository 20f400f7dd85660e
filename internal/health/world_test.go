package health

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// often is an interval of probes, and seldom one after which no test runs any more.
const (
	often  = 5 * time.Millisecond
	seldom = time.Hour
)

// address is that of the upstream that all check.
const address = "upstream.test:80"

var errBroken = errors.New("broken")

// world is what outlives configurations, in a bubble of its own time.
type world struct {
	t        *testing.T
	table    *upstream.Table
	checkers *Checkers
}

// inWorld runs a test, at the end of which everything has to be given back.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, table: upstream.NewTable(func(upstream.Change) {}), checkers: NewCheckers()}
		t.Cleanup(func() {
			if held := w.table.Held(); held != (upstream.Held{}) || len(w.checkers.m) > 0 {
				t.Errorf("held are %+v and %d checkers, want nothing", held, len(w.checkers.m))
			}
		})
		test(t, w)
	})
}

// site is a configuration: a pool whose only upstream is checked. It is its check's
// observer, and its probes are counted and find what it says.
type site struct {
	*Check
	pool *upstream.Pool
	// unload takes the configuration away.
	unload func()

	lines chan string // that its agent says

	mu     sync.Mutex // guards what follows
	next   finding
	probes []time.Time
	told   []string
}

// finding is what a probe does.
type finding func(ctx context.Context) error

// load loads a configuration, which is not in force before it is started. What its
// check does not say is the same for all.
func (w *world) load(c Config, next finding) *site {
	w.t.Helper()
	s := &site{next: next}
	if c.Key == "" {
		c.Key = "check"
	}
	if c.Interval == 0 {
		c.Interval = seldom
	}
	c.Passes, c.Fails = max(1, c.Passes), max(1, c.Fails)
	c.Table, c.Checkers, c.Observer = w.table, w.checkers, s
	c.Probe = func(*upstream.Endpoint) func(context.Context) error { return s.probe }
	s.Check = NewCheck(c)
	s.pool = upstream.NewPool(w.table)
	s.pool.Policy = upstream.LeastConn{}
	s.pool.Joins, s.pool.Leaves = append(s.pool.Joins, s.Join), append(s.pool.Leaves, s.Leave)
	s.pool.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{HostPort: address})
	s.unload = sync.OnceFunc(func() { s.pool.Release() })
	w.t.Cleanup(s.unload)
	return s
}

// run loads a configuration and puts it in force.
func (w *world) run(c Config, next finding) *site {
	w.t.Helper()
	s := w.load(c, next)
	s.Start()
	synctest.Wait()
	return s
}

func (s *site) probe(ctx context.Context) error {
	s.mu.Lock()
	s.probes = append(s.probes, time.Now())
	next := s.next
	s.mu.Unlock()
	return next(ctx)
}

// does has the next probes do this.
func (s *site) does(next finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = next
}

// probed is when probes were made.
func (s *site) probed() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probes
}

func (s *site) Probed(string, time.Duration, error) {}

func (s *site) tell(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, fmt.Sprintf(format, args...))
}

// tells returns what was told since it was asked last.
func (s *site) tells() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := strings.Join(s.told, "; ")
	s.told = nil
	return told
}

func (s *site) Failed(address string, err error) { s.tell("%s failed: %v", address, err) }
func (s *site) Down(address string, err error)   { s.tell("%s is down: %v", address, err) }
func (s *site) Up(address string)                { s.tell("%s is up", address) }
func (s *site) OutOf(_ string, err error)        { s.tell("out of something: %v", err) }
func (s *site) DownOtherwise(address string)     { s.tell("%s is down otherwise", address) }
func (s *site) Said(address string, before, now upstream.Word, problem string) {
	s.tell("%s: %v after %v, %q", address, now, before, problem)
}

// used are the checks with whose means the upstream is probed, newest last.
func (s *site) used() []*Check { return s.Used(s.pool.Fixed[0]) }

// isAvailable reports whether the site would open a tunnel to its upstream.
func (s *site) isAvailable(w *world) bool {
	w.t.Helper()
	c, err := s.pool.Candidates(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	chosen, err := c.Next(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if chosen != nil {
		w.table.GiveBack(chosen)
	}
	return chosen != nil
}

func finds(err error) finding {
	return func(context.Context) error { return err }
}

// well is the finding that nothing is wrong, and broken that something is.
var (
	well   = finds(nil)
	broken = finds(errBroken)
)

// hangs is a probe that comes back only when it has to.
func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// info is what operators see of the upstream.
func (w *world) info() upstream.Info {
	w.t.Helper()
	i, known := w.table.Info(address)
	if !known {
		w.t.Fatalf("%s is not known", address)
	}
	return i
}

func (w *world) expectHealth(want string) {
	w.t.Helper()
	synctest.Wait()
	if got := w.info().Health; got != want {
		w.t.Errorf("the upstream is %s, want %s", got, want)
	}
}
