package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// TestTheInstancesIDMayChange has an id that becomes another one, and then none.
func TestTheInstancesIDMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a := newInstance(t)
		ids := make(chan string, 1)
		a.identity = func(context.Context) (id, host string, err error) {
			id = <-ids
			ids <- id
			if id == "" {
				return "", "", errors.New("broken")
			}
			return id, "a host", nil
		}
		is := func(id string) {
			if len(ids) > 0 {
				<-ids
			}
			ids <- id
		}
		is("first")
		a.run(st)
		a.say("localhost:9000", upstream.Drain)
		is("final")
		time.Sleep(pickUp)
		if got := st.states(t, localKeyOf("final", "a host"))["localhost:9000"].State; got != upstream.Drain {
			t.Errorf("the final id has %q, want drain; stored are %v", got, st.keys())
		}
		a.expectObserved(map[event]int{toldFails: 0})

		is("")
		time.Sleep(time.Minute)
		if got := a.stateOf("localhost:9000"); got != upstream.Drain {
			t.Errorf("without an id, localhost is %q, want drain", got)
		}
		a.say(backend, upstream.Drain) // which needs none
		a.expectObserved(map[event]int{toldFails: 1})
	})
}

// Machines that share Caddy's directory of data have one id.
func TestMachinesWithOneIDHaveLocalStatesOfTheirOwn(t *testing.T) {
	keys := make(map[string]bool)
	for _, id := range []string{"one", "other"} {
		for _, host := range []string{"a", "b"} {
			keys[localKeyOf(id, host)] = true
		}
	}
	if len(keys) != 4 || !keys[localKeyOf("one", "a")] {
		t.Errorf("the keys are %v, want one for each instance on each host", keys)
	}
}

// TestWhoHasSaidOtherwiseIsPrintable has somebody who is ahead say what is no state,
// between what is said here and its way to the storage.
func TestWhoHasSaidOtherwiseIsPrintable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a := runInstance(t, st)
		st.be(func(_ context.Context, call string) error {
			if call == "Lock" {
				st.put(sharedKey, hostileDocument(t, time.Now().Add(time.Hour), "up"+testbed.Hostile))
			}
			return nil
		})
		err := a.trySay(backend, upstream.State{State: upstream.Drain})
		if err == nil || !strings.Contains(err.Error(), "has set it to up") || !printable.Is(err.Error()) {
			t.Errorf("setting a state: %q", err)
		}
	})
}

// hostileDocument is a document in the storage that somebody has tampered with.
func hostileDocument(t *testing.T, at time.Time, state string) string {
	t.Helper()
	text, err := json.Marshal(documentContent{Version: documentVersion, Upstreams: map[string]storedState{
		backend: {State: upstream.State{State: state, By: "eve" + testbed.Hostile, At: at}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
