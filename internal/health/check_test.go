package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestProbesAreSpreadOut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		began := time.Now()
		s := w.run(Config{Interval: time.Minute}, func(context.Context) error {
			time.Sleep(time.Second)
			return errors.New("nobody is there")
		})
		time.Sleep(time.Hour)
		s.unload()
		probes := s.probed()
		if !probes[0].Equal(began) {
			t.Errorf("the first probe is after %v, want it at once", probes[0].Sub(began))
		}
		shortest, longest := time.Hour, time.Duration(0)
		for i, at := range probes[1:] {
			pause := at.Sub(probes[i])
			shortest, longest = min(shortest, pause), max(longest, pause)
		}
		if shortest < 54*time.Second || longest > 66*time.Second || longest-shortest < time.Second {
			t.Errorf("the pauses are from %v to %v, want them spread from 54s to 66s", shortest, longest)
		}
	})
}

func TestHandlersShareACheck(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, two := w.run(Config{}, well), w.run(Config{}, well)
		other := w.run(Config{Key: "other"}, well)
		w.expectHealth(upstream.Up)
		verdictOf := func(s *site) *upstream.Verdict { return s.pool.Fixed[0].Verdict }
		if verdictOf(one) != verdictOf(two) {
			t.Error("the handlers have checks of their own")
		}
		if verdictOf(one) == verdictOf(other) {
			t.Error("another check is the same")
		}
		if got := len(one.probed()) + len(two.probed()); got != 1 || len(other.probed()) != 1 {
			t.Errorf("%d probes, and %d of the other check, want 1 of each", got, len(other.probed()))
		}
	})
}

func TestAddressIsDownIfOneOfItsChecksFails(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		good := w.run(Config{Key: "good", Interval: often}, well)
		w.expectHealth(upstream.Up)
		bad := w.run(Config{Key: "bad", Interval: often}, finds(errors.New("broken\x1b[31m")))
		w.expectHealth(upstream.Down)
		got := w.info()
		if got.HealthError != `broken\x1b[31m` || got.Checked.IsZero() {
			t.Errorf("the admin API tells %+v", got)
		}
		if bad.isAvailable(w) || !good.isAvailable(w) {
			t.Error("each has to go by its own check")
		}
		bad.unload()
		w.expectHealth(upstream.Up)
	})
}

func TestReloadKeepsWhatIsKnown(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		before := w.run(Config{}, broken)
		w.expectHealth(upstream.Down)

		failing := w.load(Config{}, broken)
		failing.unload() // a configuration that fails to load
		if got := before.used(); !slices.Equal(got, []*Check{before.Check}) {
			t.Error("a configuration that was not in force has changed who probes")
		}
		after := w.load(Config{}, broken)
		if after.isAvailable(w) {
			t.Error("the upstream is up while the new configuration is loaded")
		}
		after.Start()
		if got := after.used(); got[len(got)-1] != after.Check {
			t.Error("the new configuration does not probe")
		}
		before.unload()
		if got := after.used(); !slices.Equal(got, []*Check{after.Check}) {
			t.Error("what probes is not the new configuration alone")
		}
		w.expectHealth(upstream.Down)
		if got := len(before.probed()) + len(failing.probed()) + len(after.probed()); got != 1 {
			t.Errorf("after the reload there were %d probes, want one", got)
		}
		after.unload()
		w.load(Config{}, broken)
		w.expectHealth(upstream.Unchecked) // after a time without the check
	})
}

func TestUnloadingInterruptsAProbe(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		before := w.run(Config{}, hangs)
		after := w.run(Config{}, hangs)
		if len(before.probed()) != 1 || len(after.probed()) != 0 {
			t.Errorf("%d and %d probes, want one", len(before.probed()), len(after.probed()))
		}
		before.unload()
		synctest.Wait()
		if len(before.probed()) != 1 || len(after.probed()) != 1 {
			t.Errorf("%d and %d probes, want another one, with the means of the new configuration", len(before.probed()), len(after.probed()))
		}
		w.expectHealth(upstream.Unchecked) // no probe has come to its end
		after.unload()
		if told := before.tells() + after.tells(); told != "" {
			t.Errorf("was told %q", told)
		}
	})
}

func TestUnloadingTheNewerConfigurationGoesBackToTheOlder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		older, newer := w.run(Config{Interval: often}, well), w.run(Config{Interval: often}, well)
		time.Sleep(3 * often)
		if len(older.probed()) != 1 || len(newer.probed()) == 0 {
			t.Errorf("the older configuration has made %d probes, and the newer one %d", len(older.probed()), len(newer.probed()))
		}
		newer.unload()
		if got := older.used(); !slices.Equal(got, []*Check{older.Check}) {
			t.Error("the older configuration does not probe")
		}
		n := len(older.probed())
		time.Sleep(3 * often)
		if len(older.probed()) < n+2 {
			t.Error("there are no more probes")
		}
	})
}

func TestLoadingProbesNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.load(Config{Interval: often}, well)
		time.Sleep(time.Minute)
		if len(s.used()) > 0 || len(s.probed()) > 0 {
			t.Error("something probes before the configuration is in force")
		}
	})
}

func TestEndpointsThatJoinLaterAreProbedAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.run(Config{}, well)
		e := upstream.NewEndpoint(&upstream.Server{Weight: 1}, upstream.Address{HostPort: "late.test:80"})
		e.Host = w.table.Name(e.Key(), "")
		s.pool.Join(e)
		synctest.Wait()
		if i, _ := w.table.Info(e.Key()); i.Health != upstream.Up {
			t.Errorf("it is %s although it has been probed", i.Health)
		}
		s.pool.Leave(e)
		if i, _ := w.table.Info(e.Key()); i.Health != upstream.Unchecked {
			t.Errorf("it is %s although it has left", i.Health)
		}
		w.table.Unname(e.Host, "", false)
	})
}

func TestWhatProbesTell(t *testing.T) {
	const fails, out = "upstream.test:80 failed: broken", "out of something: dial tcp: too many open files"
	noFiles := fmt.Errorf("dial tcp: %w", syscall.EMFILE)
	inWorld(t, func(t *testing.T, w *world) {
		s := w.run(Config{Interval: time.Minute, Passes: 2, Fails: 2}, well)
		for i, step := range []struct {
			finds  error
			tells  string
			health string
		}{
			{noFiles, out, upstream.Up}, // finds nothing out
			{errBroken, fails, upstream.Up},
			{noFiles, out, upstream.Up},
			{errBroken, "upstream.test:80 is down: broken", upstream.Down},
			{errBroken, fails, upstream.Down},
			{nil, "", upstream.Down},
			{noFiles, out, upstream.Down},
			{nil, "upstream.test:80 is up", upstream.Up},
			{nil, "", upstream.Up},
		} {
			s.does(finds(step.finds))
			for n := len(s.probed()); len(s.probed()) == n; synctest.Wait() {
				time.Sleep(time.Second)
			}
			if got := s.tells(); got != step.tells {
				t.Errorf("step %d tells %q, want %q", i, got, step.tells)
			}
			w.expectHealth(step.health)
		}
	})
}

// In a reload that has changed the check, the new one may have been at work already.
func TestWhoGoesTellsThatTheAddressIsDownOtherwise(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, test := range []struct {
			finds error
			tells string
		}{{errBroken, "upstream.test:80 is down otherwise"}, {nil, ""}} {
			before := w.run(Config{Key: "before"}, well)
			after := w.run(Config{Key: "after"}, finds(test.finds))
			before.unload()
			if got := before.tells(); got != test.tells {
				t.Errorf("if the new check finds %v, the old one tells %q, want %q", test.finds, got, test.tells)
			}
			after.unload()
		}
	})
}
