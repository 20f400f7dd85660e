package discovery

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestWhatIsTold(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		all, p := r.add(r.lookUp)
		defer all.Release()
		half := func(context.Context) ([]*upstream.Endpoint, []string, error) {
			return endpoints(hostB, hostB), []string{"nonsense"}, nil
		}
		none := func(context.Context) ([]*upstream.Endpoint, []string, error) { return nil, []string{"x", "y"}, nil }

		r.does(gives(hostA))
		all.Start()
		synctest.Wait()
		r.expectTold(t, "found: [a.test:80], not any more: []")
		for _, step := range []struct {
			does Lookup
			want []string
			is   string
		}{
			{gives(hostA), nil, hostA},
			{none, []string{"failing with 1: none of the addresses can be used: x; y"}, hostA},
			{gives(), nil, hostA}, // it fails still
			{half, []string{"recovered", "unusable: [nonsense]", "found: [b.test:80], not any more: [a.test:80]"}, hostB},
			{half, nil, hostB},
			{gives(hostB), nil, hostB},
			{half, []string{"unusable: [nonsense]"}, hostB},
		} {
			r.does(step.does)
			time.Sleep(time.Second)
			synctest.Wait()
			r.expectTold(t, step.want...)
			if got := addressesOf(p); !slices.Equal(got, []string{step.is}) {
				t.Errorf("the upstreams are %v, want %s", got, step.is)
			}
		}
	})
}

func TestOutcomes(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		r.does(gives(hostA))
		all, _ := r.add(r.lookUp)
		if all.ArePending() {
			t.Error("it is waited for before it is in force")
		}
		all.Start()
		if !all.ArePending() {
			t.Error("its first answer is not waited for")
		}
		synctest.Wait()
		r.does(gives(hostB))
		time.Sleep(time.Second)
		synctest.Wait()
		if all.ArePending() {
			t.Error("its first answer is still waited for")
		}
		if n := r.hasOutcomes(); n != 2 {
			t.Fatalf("there are %d outcomes, want 2", n)
		}
		first, second := r.outcomes[0], r.outcomes[1]
		if !first.Orphans || len(first.Joined) > 0 {
			t.Errorf("from the first answer follows %+v", first)
		}
		if !second.Orphans || len(second.Joined) != 1 || second.Joined[0].Host.Address != hostB || len(second.Had) > 0 {
			t.Errorf("from the second answer follows %+v", second)
		}
		if !all.Release() {
			t.Error("no upstream is without a configuration")
		}
		if n := r.hasOutcomes(); n != 2 {
			t.Errorf("something follows from the end: %+v", r.outcomes[2:])
		}
	})
}

// What waits for a first answer does not wait for one that nobody asks for any more.
func TestEndBeforeTheFirstAnswer(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		all, _ := r.add(func(ctx context.Context) ([]*upstream.Endpoint, []string, error) {
			<-ctx.Done()
			return nil, nil, ctx.Err()
		})
		all.Start()
		synctest.Wait()
		if all.Release() {
			t.Error("an upstream is without a configuration")
		}
		if n := r.hasOutcomes(); n != 1 || !r.outcomes[0].Orphans || all.ArePending() {
			t.Errorf("there follows %+v", r.outcomes)
		}
		synctest.Wait()
		if sources, lost := r.set.Held(); sources != 0 || lost != 0 {
			t.Errorf("there are still %d sources and %d calls", sources, lost)
		}
	})
}

// A call that was told to come back finds nothing for those who are left.
func TestAnswerOfAnAbandonedCallDoesNotCount(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		released := make(chan struct{})
		old, _ := r.add(hangs(released, gives(hostA)))
		old.Start()
		synctest.Wait()
		next, p := r.add(gives(hostB))
		next.Start()
		old.Release()
		synctest.Wait()
		close(released)
		synctest.Wait()
		if got := addressesOf(p); !slices.Equal(got, []string{hostB}) {
			t.Errorf("the upstreams are %v", got)
		}
		next.Release()
	})
}

func TestSourceThatHangsIsNotWaitedFor(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		released := make(chan struct{})
		hanging := hangs(released, gives(hostA))
		r.does(hanging)
		p := r.pool()
		all, unload := r.addTo(p, r.lookUp)
		all.Start()
		time.Sleep(pollTimeout)
		synctest.Wait()
		if _, got := finds(t, all, p); got != "source scripted: no answer within 5s" {
			t.Errorf("the problem is %q", got)
		}
		time.Sleep(time.Hour)
		if got := r.wasAsked(); got != 1 {
			t.Errorf("the source is asked %d times at once", got)
		}
		// Another instance is asked at once, and the old one is not waited for.
		again, unloadAgain := r.addTo(r.pool(), r.lookUp)
		r.does(takes(time.Minute, gives(hostB)))
		again.Start()
		began := time.Now()
		unload()
		synctest.Wait()
		if got := r.wasAsked(); got != 2 {
			t.Errorf("the sources were asked %d times, want 2", got)
		}
		unloadAgain() // which is told to come back, and does
		if got := time.Since(began); got != 0 {
			t.Errorf("unloading took %v", got)
		}
		// A call that ignores that it is to come back is waited for a moment.
		r.does(hanging)
		third, unloadThird := r.addTo(r.pool(), r.lookUp)
		third.Start()
		synctest.Wait()
		unloadThird()
		if got := time.Since(began); got != leaveTimeout {
			t.Errorf("unloading took %v, want %v", got, leaveTimeout)
		}
		if _, got := r.set.Held(); got != 2 {
			t.Errorf("%d calls are lost, want 2", got)
		}
		close(released)
		synctest.Wait()
		if _, got := r.set.Held(); got != 0 {
			t.Errorf("%d calls are lost, want none", got)
		}
	})
}

func TestAnswerThatComesLateCounts(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		released := make(chan struct{})
		p := r.pool()
		all, _ := r.addTo(p, hangs(released, gives(hostA)))
		all.Start()
		time.Sleep(time.Minute)
		close(released)
		synctest.Wait()
		expectAddresses(t, p, hostA)
	})
}

func TestPlacesStayWhileAddressesDo(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		p := r.pool()
		all, _ := r.addTo(p, r.lookUp)
		does := func(addresses ...string) {
			t.Helper()
			r.does(gives(addresses...))
			time.Sleep(time.Second)
			synctest.Wait()
			expectAddresses(t, p, addresses...)
		}
		r.does(gives())
		all.Start()
		does(hostA, hostB)
		a, b := p.Standing()[0], p.Standing()[1]
		does(hostC, hostB)
		if p.Standing()[1] != b {
			t.Error("an upstream that has stayed has another place")
		}
		does(hostA, hostB)
		if p.Standing()[0] == a || p.Standing()[1] != b {
			t.Error("what has come back has its old place, or what has stayed has not")
		}
	})
}

func TestListHasWhatASourceHasFound(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		p := r.pool(hostB)
		all, unload := r.addTo(p, gives(hostA, hostB))
		all.Start()
		synctest.Wait()
		expectAddresses(t, p, hostB, hostA)
		for _, i := range r.table.List() {
			if i.Source != "scripted" || !i.Configured {
				t.Errorf("the list has %+v", i)
			}
		}
		unload()
		if got := r.table.List(); len(got) != 1 || got[0].Address != hostB || got[0].Source != "" {
			t.Errorf("the list has still %+v", got)
		}
	})
}

func TestConfigurationThatFailsToLoadChangesNothing(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		r.does(gives(hostA))
		all, _ := r.addTo(r.pool(), r.lookUp)
		all.Start()
		synctest.Wait()
		never := func(context.Context) ([]*upstream.Endpoint, []string, error) {
			t.Error("a configuration was asked that is not in force")
			return nil, nil, errors.New("asked")
		}
		_, unload := r.addTo(r.pool(), never)
		_, unloadOther := r.addTo(r.pool(), never, never) // the second one is another source
		unloadOther()
		unload()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.wasAsked(); got != 61 {
			t.Errorf("the source was asked %d times, want 61", got)
		}
	})
}

func TestOutcomeTellsWhatOthersHaveHad(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		r.pool(hostB)
		r.does(gives(hostA))
		all, _ := r.addTo(r.pool(), r.lookUp)
		all.Start()
		synctest.Wait()
		r.does(gives(hostA, hostB, hostC))
		time.Sleep(time.Second)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		last := r.outcomes[len(r.outcomes)-1]
		if last.Orphans || len(last.Joined) != 2 || !slices.Equal(last.Had, []string{hostB}) {
			t.Errorf("there follows %+v", last)
		}
	})
}

func TestTooManyLostCalls(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		r.set.callee.MaxLost = 0
		all, p := r.add(func(context.Context) ([]*upstream.Endpoint, []string, error) {
			t.Error("the source was asked")
			return nil, nil, errors.New("asked")
		})
		all.Start()
		if _, got := finds(t, all, p); !strings.Contains(got, "restart Caddy") {
			t.Errorf("the problem is %q", got)
		}
		all.Release()
	})
}

func TestFirstAnswerMayBringNewcomers(t *testing.T) {
	for name, tt := range map[string]struct {
		known []string
		want  []string
	}{
		"nothing was there":  {nil, nil},
		"one was there":      {[]string{hostA}, []string{hostB}},
		"all were there":     {[]string{hostA, hostB}, nil},
		"something else was": {[]string{hostC}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			table := newRig().table
			for _, address := range tt.known {
				table.Name(address, "")
			}
			if got := newcomers(table, nil, endpoints(hostA, hostB)); !slices.Equal(got, tt.want) {
				t.Errorf("newcomers are %v, want %v", got, tt.want)
			}
		})
	}
}
