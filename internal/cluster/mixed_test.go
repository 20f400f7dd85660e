package cluster

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// olderSays has an instance of the older format, which knows three words and no meaning,
// write the document: with a word of its own about an address, if there is one.
func olderSays(tb testing.TB, st *fakeStorage, address, state string) {
	tb.Helper()
	var content struct {
		Version   int                       `json:"version"`
		Upstreams map[string]upstream.State `json:"upstreams"`
	}
	if err := json.Unmarshal([]byte(st.get(sharedKey)), &content); err != nil || content.Version != 1 {
		tb.Fatalf("an older instance cannot read %s: %v", st.get(sharedKey), err)
	}
	for at, s := range content.Upstreams {
		if s.State != "ready" && s.State != "drain" && s.State != "evict" {
			tb.Errorf("an older instance does not know %q at %s, and lets everybody in", s.State, at)
		}
	}
	if state != "" {
		content.Upstreams[address] = upstream.State{State: state, By: "older", At: time.Now()}
	}
	text, err := json.Marshal(content)
	if err != nil {
		tb.Fatal(err)
	}
	st.put(sharedKey, string(text))
}

func TestOlderInstancesKeepEverybodyAway(t *testing.T) {
	for state, want := range map[string]string{
		upstream.Drain: "drain", upstream.Maint: "drain", upstream.Evict: "evict", upstream.Ready: "ready",
	} {
		t.Run(state, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newFakeStorage()
				a := runInstance(t, st)
				a.say(backend, state)
				var content struct {
					Upstreams map[string]upstream.State `json:"upstreams"`
				}
				if err := json.Unmarshal([]byte(st.get(sharedKey)), &content); err != nil {
					t.Fatal(err)
				}
				if got := content.Upstreams[backend]; got.State != want || got.By != "test" {
					t.Errorf("an older instance reads %+v, want %s", got, want)
				}
				runInstance(t, st).expect(state)
			})
		})
	}
}

func TestWhatOlderInstancesSay(t *testing.T) {
	for said, want := range map[string]string{
		"drain": upstream.Maint, "evict": upstream.Evict, "ready": upstream.Ready,
	} {
		t.Run(said, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newFakeStorage()
				a := runInstance(t, st)
				a.say(backend, upstream.Drain)
				time.Sleep(time.Second)
				olderSays(t, st, backend, said)
				time.Sleep(pickUp)
				a.expect(want)
				runInstance(t, st).expect(want)
			})
		})
	}
}

// TestADrainOutlivesThatAnOlderInstanceWrites has one write the document for another
// upstream's sake, by which it loses what the drain means.
func TestADrainOutlivesThatAnOlderInstanceWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const other = "10.0.0.2:9000"
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		a.say(backend, upstream.Drain)
		time.Sleep(pickUp)
		b.expect(upstream.Drain)
		for range 3 {
			olderSays(t, st, other, "evict")
			fresh := runInstance(t, st) // which may come before those that know better
			time.Sleep(pickUp)
			for _, i := range []*instance{a, b, fresh} {
				i.expect(upstream.Drain)
				if got := i.stateOf(other); got != upstream.Evict {
					t.Errorf("%s is %q, want evict", other, got)
				}
			}
		}
		stores := st.count("Store")
		olderSays(t, st, "", "") // nothing to say, and no difference that it could see
		time.Sleep(pickUp)
		if got := st.count("Store") - stores; got > 1 {
			t.Errorf("the meaning is written %d times, want once", got)
		}
		if got := st.states(t, sharedKey)[backend].State; got != upstream.Drain {
			t.Errorf("%s is stored, want drain", got)
		}
	})
}

// TestALostDrainKeepsEverybodyAway has nobody left who knows what was meant.
func TestALostDrainKeepsEverybodyAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a := newInstance(t)
		unload := a.run(st)
		a.say(backend, upstream.Drain)
		unload()
		olderSays(t, st, "", "")
		runInstance(t, st).expect(upstream.Maint)
	})
}
