package websocketproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// hostile is text with one of each kind of what moves, colours, hides or
// reorders what stands on a terminal.
const hostile = "a\x00b\tc\rd\ne\x1b[31mf\x7fg\u0085h\u009b31mi\u202ej\u2066k\u200bl\u2028m"

func TestPrintableEscapesWhatCannotBeSeen(t *testing.T) {
	for s, want := range map[string]string{
		"":                      "",
		"10.0.0.1:80":           "10.0.0.1:80",
		`root@vm "x" \y`:        `root@vm "x" \y`,
		"Zoë 東京 \U0001F600":     "Zoë 東京 \U0001F600",
		"a\x1b[31mb":            `a\x1b[31mb`,
		"a\u009b31m":            `a\u009b31m`,
		"a\x9b31m":              `a\x9b31m`, // a C1 of 8-bit terminals, and no UTF-8
		"a\x7f":                 `a\x7f`,
		"\ufffd and \xff":       "\ufffd and \\xff",
		"line 1\nline 2\ttab":   `line 1\nline 2\ttab`,
		"\u202egnp.exe":         `\u202egnp.exe`,
		"\u2066\u2069\u200f":    `\u2066\u2069\u200f`,
		"zero\u200bwidth\ufeff": `zero\u200bwidth\ufeff`,
		"\U000E0041":            `\U000e0041`, // a tag, which is never seen
	} {
		if got := printable(s); got != want {
			t.Errorf("%q is shown as %q, want %q", s, got, want)
		}
	}
	if got := printable(hostile); !isPrintable(got) {
		t.Errorf("%q is shown as %q", hostile, got)
	}
}

func TestPrintableJSONIsTheSame(t *testing.T) {
	for _, s := range []string{"", "plain", "Zoë", hostile, "\U000E0041\U0001F600", "\ufffd", `"\u001b"`} {
		text, err := printableJSON(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		if err := json.Unmarshal(text, &got); err != nil || got[s] != s || len(got) != 1 {
			t.Errorf("%q becomes %s, which is read as %q (%v)", s, text, got, err)
		}
		if !isPrintable(string(text)) {
			t.Errorf("%q becomes %q", s, text)
		}
	}
	// Whoever passes on what others have written, passes it on line by line.
	if got := string(escapeJSON([]byte("{\n\"a\": \"\xff\u0080\"}"))); got != "{\n\"a\": \"\\ufffd\\u0080\"}" {
		t.Errorf("got %q", got)
	}
}

func TestAddressesWithControlCharactersAreRefused(t *testing.T) {
	for _, address := range []string{
		"10.0.0.1\x1b[31m:80", "10.0.0.1:80\n", "\x7fhost:80", "host\u009b31m:80", "host\x9b:80", "ho\u202est:80",
		"ho\u200bst:80", "unix//run/\x07.sock", "[fe80::1%\x1b[0m]:80", "tcp4/a\rb:80",
	} {
		if e, err := newEndpoint(new(slot), address); err == nil {
			t.Errorf("%q is taken for %s", address, e.key())
		} else if !isPrintable(err.Error()) || !strings.Contains(err.Error(), "has control characters") {
			t.Errorf("%q: %q", address, err)
		}
	}
	for _, address := range []string{"münchen.example:80", "unix//run/my app.sock", "[fe80::1%eth0]:80"} {
		if _, err := newEndpoint(new(slot), address); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
	err := provisionJSON(t, fmt.Sprintf(`{"upstreams": [{"dial": %q}]}`, "10.0.0.1\u009b:80"))
	if err == nil || !strings.Contains(err.Error(), "has control characters") {
		t.Errorf("the configuration with such an address: %v", err)
	}
}

func TestWhoSetsAStateHasAPrintableName(t *testing.T) {
	admin := startAdmin(t)
	for _, by := range []string{"a\u009b31m", "\u202eb", "c\x7f"} {
		body, err := json.Marshal(stateRequest{Address: "a:1", State: upstream.Drain, By: by})
		if err != nil {
			t.Fatal(err)
		}
		if resp, answer := admin.do("POST", "upstreams/state", string(body)); resp.StatusCode != http.StatusBadRequest ||
			!strings.Contains(answer, "by is a name") {
			t.Errorf("by %q: %d %s", by, resp.StatusCode, answer)
		}
	}
}

// hostileDocument is a document in the storage that somebody has tampered with.
func hostileDocument(t *testing.T, at time.Time, state string) string {
	t.Helper()
	text, err := json.Marshal(documentContent{Version: documentVersion, Upstreams: operatorStates{
		"10.0.0.9:1" + hostile: {State: upstream.Drain, By: "eve" + hostile, At: at},
		backend:                {State: state, By: "eve" + hostile, At: at},
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
				if text := fmt.Sprint(value); !isPrintable(text) {
					t.Errorf("the field %s of %q is %q", field, line.Message, text)
				}
			}
		}
		// Somebody is ahead, and says what is no state.
		st.put(sharedKey, hostileDocument(t, time.Now().Add(time.Minute), "up"+hostile))
		time.Sleep(pickUp)
		st.be(func(_ context.Context, call string) error {
			if call == "Lock" {
				st.put(sharedKey, hostileDocument(t, time.Now().Add(time.Hour), "up"+hostile))
			}
			return nil
		})
		err := a.trySay(backend, upstream.State{State: upstream.Drain})
		if err == nil || !strings.Contains(err.Error(), "has set it to up") || !isPrintable(err.Error()) {
			t.Errorf("setting a state: %q", err)
		}
	})
}
