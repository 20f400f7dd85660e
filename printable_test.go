package websocketproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestAddressesWithControlCharactersAreRefused(t *testing.T) {
	for _, address := range []string{
		"10.0.0.1\x1b[31m:80", "10.0.0.1:80\n", "\x7fhost:80", "host\u009b31m:80", "host\x9b:80", "ho\u202est:80",
		"ho\u200bst:80", "unix//run/\x07.sock", "[fe80::1%\x1b[0m]:80", "tcp4/a\rb:80",
	} {
		if e, err := parseAddress(address); err == nil {
			t.Errorf("%q is taken for %s", address, e.key())
		} else if !printable.Is(err.Error()) || !strings.Contains(err.Error(), "has control characters") {
			t.Errorf("%q: %q", address, err)
		}
	}
	for _, address := range []string{"münchen.example:80", "unix//run/my app.sock", "[fe80::1%eth0]:80"} {
		if _, err := parseAddress(address); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
	err := provisionJSON(t, fmt.Sprintf(`{"upstreams": [{"dial": %q}]}`, "10.0.0.1\u009b:80"))
	if err == nil || !strings.Contains(err.Error(), "has control characters") {
		t.Errorf("the configuration with such an address: %v", err)
	}
}

// hostileDocument is a document in the storage that somebody has tampered with.
func hostileDocument(t *testing.T, at time.Time, state string) string {
	t.Helper()
	text, err := json.Marshal(documentContent{Version: documentVersion, Upstreams: operatorStates{
		"10.0.0.9:1" + testbed.Hostile: {State: upstream.Drain, By: "eve" + testbed.Hostile, At: at},
		backend:                        {State: state, By: "eve" + testbed.Hostile, At: at},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWhatIsStoredIsLoggedPrintable(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		st := newFakeStorage()
		st.put(sharedKey, hostileDocument(t, time.Now(), upstream.Drain))
		a := runInstance(t, st) // finds it
		a.expect(upstream.Drain)
		time.Sleep(time.Second)
		st.put(sharedKey, hostileDocument(t, time.Now(), upstream.Evict)) // changes meanwhile
		time.Sleep(pickUp)
		a.expect(upstream.Evict)
		a.expectLines(map[string]int{"upstream states found": 1, "upstream state changed": 2})
		for _, line := range a.logs.All() {
			for field, value := range line.ContextMap() {
				if text := fmt.Sprint(value); !printable.Is(text) {
					t.Errorf("the field %s of %q is %q", field, line.Message, text)
				}
			}
		}
		// Somebody is ahead, and says what is no state.
		st.put(sharedKey, hostileDocument(t, time.Now().Add(time.Minute), "up"+testbed.Hostile))
		time.Sleep(pickUp)
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
