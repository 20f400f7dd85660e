package cli

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// asked is a console whose nodes answer as handlers do, and what it prints.
func asked(t *testing.T, handlers ...http.HandlerFunc) (*console, *strings.Builder) {
	t.Helper()
	out := new(strings.Builder)
	c := &console{out: out}
	for _, handler := range handlers {
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		n, err := newNode(server.Listener.Addr().String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
	}
	return c, out
}

// says answers everything with a text.
func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, text) }
}

// hangsUp answers nothing.
func hangsUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// forbids answers as Caddy does.
func forbids(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusForbidden)
	_, _ = fmt.Fprint(w, `{"error": "not \u001b allowed"}`)
}

func TestSumsOfUpstreams(t *testing.T) {
	list := []nodeUpstream{
		{"n1", admin.Upstream{Address: "a:1", State: upstream.Ready, Health: upstream.Up, Tunnels: 1, Queued: 4}},
		{"n1", admin.Upstream{Address: "b:1", State: upstream.Ready, Health: upstream.Up, Tunnels: 2}},
		{"n2", admin.Upstream{Address: "a:1", State: upstream.Ready, Health: upstream.Up, Failing: true, Tunnels: 3, Queued: 5}},
		{"n2", admin.Upstream{Address: "b:1", State: upstream.Drain, Health: upstream.Up, Tunnels: 4}},
	}
	var out strings.Builder
	if err := writeUpstreams(&out, list, true, time.Now()); err != nil {
		t.Fatal(err)
	}
	want := "NODE  ADDRESS  STATE    HEALTH   TUNNELS  QUEUED  SINCE  BY  EXPIRES\n" +
		"n1    a:1      ready    up       1        4       -      -   -\n" +
		"n1    b:1      ready    up       2        0       -      -   -\n" +
		"n2    a:1      ready    failing  3        5       -      -   -\n" +
		"n2    b:1      drain    up       4        0       -      -   -\n" +
		"all   a:1      ready    differs  4        9       -      -   -\n" +
		"all   b:1      differs  up       6        0       -      -   -\n" +
		"all   -        -        -        10       9       -      -   -\n"
	if got := out.String(); got != want {
		t.Errorf("the list is\n%s\nwant\n%s", got, want)
	}
}

func TestNodesThatFail(t *testing.T) {
	const one = `{"upstreams":[{"address":"a:1","state":"ready","tunnels":7}]}`
	for name, test := range map[string]struct {
		handlers []http.HandlerFunc
		prints   string // a part of it, or nothing
		fails    []string
	}{
		"nobody fails":       {[]http.HandlerFunc{says(one), says(one)}, "14", nil},
		"one is away":        {[]http.HandlerFunc{hangsUp, says(one)}, "a:1", []string{"1 of 2 nodes failed", "did not answer: EOF"}},
		"one does not allow": {[]http.HandlerFunc{says(one), forbids}, "a:1", []string{"1 of 2 nodes failed", `: not \x1b allowed`}},
		"one has no module":  {[]http.HandlerFunc{says(one), http.NotFound}, "a:1", []string{"does not have the module"}},
		"all fail":           {[]http.HandlerFunc{hangsUp, forbids}, "", []string{"2 of 2 nodes failed", "; "}},
		"the only one is away": {
			[]http.HandlerFunc{hangsUp},
			"",
			[]string{"asking 127.0.0.1:", ": EOF: is Caddy running there, with its admin endpoint on?"},
		},
		"the only one does not allow": {[]http.HandlerFunc{forbids}, "", []string{`not \x1b allowed`}},
		"one says nonsense":           {[]http.HandlerFunc{says("<html>"), says(one)}, "a:1", []string{"reading what "}},
		"one leads elsewhere": {
			[]http.HandlerFunc{http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound).ServeHTTP, says(one)},
			"a:1",
			[]string{"HTTP 302"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, out := asked(t, test.handlers...)
			err := c.listUpstreams()
			if got := out.String(); !strings.Contains(got, test.prints) || (got == "") != (test.prints == "") {
				t.Errorf("it prints %q, want %q", got, test.prints)
			}
			if (err == nil) != (test.fails == nil) {
				t.Fatalf("the error is %v", err)
			}
			for _, words := range test.fails {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("the error is %v, want %q", err, words)
				}
			}
		})
	}
}

// pages answers with so many tunnels, two at a time.
func pages(name string, n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		first := 0
		if after := r.URL.Query().Get("after"); after != "" {
			_, _ = fmt.Sscanf(after, name+"%d", &first)
			first++
		}
		var tunnels []string
		for i := first; i < min(n, first+2); i++ {
			tunnels = append(tunnels, fmt.Sprintf(`{"id":"%s%d","bytes_in":1024,"more":[1]}`, name, i))
		}
		next := ""
		if first+2 < n {
			next = fmt.Sprintf("%s%d", name, first+1)
		}
		_, _ = fmt.Fprintf(w, `{"next":%q,"tunnels":[%s]}`, next, strings.Join(tunnels, ","))
	}
}

func TestTunnelsOfSeveralNodes(t *testing.T) {
	c, out := asked(t, pages("A", 5), hangsUp, pages("B", 3), says(`{"tunnels":[{}]}`))
	c.json = true
	if err := c.listTunnels(make(url.Values)); err == nil || !strings.Contains(err.Error(), "1 of 4 nodes failed") {
		t.Errorf("the error is %v", err)
	}
	var list struct {
		Tunnels []struct {
			Node, ID string
			More     []int
		}
		Failed []failure
	}
	if err := json.Unmarshal([]byte(out.String()), &list); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	var ids []string
	for _, tunnel := range list.Tunnels {
		ids = append(ids, tunnel.ID)
		if from := slices.IndexFunc(c.nodes, func(n *node) bool { return n.name == tunnel.Node }); tunnel.ID != "" &&
			(from != map[byte]int{'A': 0, 'B': 2}[tunnel.ID[0]] || len(tunnel.More) != 1) {
			t.Errorf("a tunnel is %+v", tunnel)
		}
	}
	if want := []string{"A0", "A1", "A2", "A3", "A4", "B0", "B1", "B2", ""}; !slices.Equal(ids, want) {
		t.Errorf("the tunnels are %q, want %q", ids, want)
	}
	if len(list.Failed) != 1 || list.Failed[0].Node != c.nodes[1].name {
		t.Errorf("those that failed are %+v", list.Failed)
	}

	c.json = false
	out.Reset()
	if err := c.listTunnels(make(url.Values)); err == nil {
		t.Error("there is no error")
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := strings.Fields(lines[len(lines)-1]); len(lines) != 11 || strings.Join(last[:3], " ") != "all 9 tunnels" || last[9] != "8.0" {
		t.Errorf("the table is\n%s", out)
	}
}

// errFull is what a console says that nobody reads.
var errFull = errors.New("no space left")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

// TestNobodyReads has nodes with pages that nobody will ever take.
func TestNobodyReads(t *testing.T) {
	c, _ := asked(t, pages("A", 9), pages("B", 9), pages("C", 9))
	c.out, c.json = full{}, true
	if err := c.listTunnels(make(url.Values)); !errors.Is(err, errFull) {
		t.Errorf("the error is %v", err)
	}
}

// TestEvictionAtANodeThatEnds has one node that does not answer any more.
func TestEvictionAtANodeThatEnds(t *testing.T) {
	looks := 0
	state := func(tunnels int) string {
		return fmt.Sprintf(`{"upstreams":[{"address":"a:1","state":"evict","tunnels":%d}]}`, tunnels)
	}
	c, out := asked(t, func(w http.ResponseWriter, _ *http.Request) {
		looks++
		_, _ = fmt.Fprint(w, state(3-looks))
	}, hangsUp)
	c.nodes[1].away = true // so that nobody waits whether it is reloading
	r := new(replies[admin.StateAnswer])
	for _, n := range c.nodes {
		r.add(n, admin.StateAnswer{Upstream: admin.Upstream{Address: "a:1", State: upstream.Evict, Tunnels: 3}}, nil)
	}
	if err := c.awaitEmpty(r); err != nil {
		t.Fatal(err)
	}
	want := "a:1 is being emptied, 6 left at 2 nodes\n" +
		"a:1 is being emptied, 2 left at 1 node\na:1 is being emptied, 1 left at 1 node\na:1 is empty at 1 node\n"
	if got := out.String(); got != want {
		t.Errorf("it prints %q, want %q", got, want)
	}
	if err := c.err(r.failed); err == nil || !strings.Contains(err.Error(), "1 of 2 nodes failed: "+c.nodes[1].name) {
		t.Errorf("the error is %v", err)
	}
}

// TestWatchGoesOnWithThoseThatAnswer has one node that is away from the start, and one
// that ends.
func TestWatchGoesOnWithThoseThatAnswer(t *testing.T) {
	t.Parallel() // as a node that may be reloading is waited for
	looks := 0
	c, out := asked(t, hangsUp, func(w http.ResponseWriter, _ *http.Request) {
		if looks++; looks > 2 {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprintf(w, `{"upstreams":[{"address":"a:1","state":"ready","health":"up","tunnels":%d}]}`, looks)
	})
	if err := c.watch(); err == nil || !strings.Contains(err.Error(), "2 of 2 nodes failed: ") {
		t.Errorf("it ends with %v", err)
	}
	list := func(tunnels int) string {
		return fmt.Sprintf("%s a:1 ready up %d 0 - - - all a:1 ready up %d 0 - - - all - - - %d 0 - - - %s: did not answer: EOF",
			c.nodes[1].name, tunnels, tunnels, tunnels, c.nodes[0].name)
	}
	header := "NODE ADDRESS STATE HEALTH TUNNELS QUEUED SINCE BY EXPIRES "
	want := header + list(1) + " " + header + list(2)
	if got := strings.Join(strings.Fields(out.String()), " "); got != want {
		t.Errorf("it prints\n%s\nwant\n%s", got, want)
	}
}

func TestIDsAtSeveralNodes(t *testing.T) {
	closes := func(id string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/"+id) {
				w.WriteHeader(http.StatusNotFound)
				_, _ = fmt.Fprintf(w, `{"error": "there is no tunnel %s"}`, r.URL.Path)
				return
			}
			_, _ = fmt.Fprint(w, `{"closing":1}`)
		}
	}
	c, out := asked(t, closes("A"), closes("B"), hangsUp)
	cmd := new(cobra.Command)
	cmd.Flags().Int("code", 0, "")
	cmd.Flags().String("reason", "", "")
	c.flags = caddycmd.Flags{FlagSet: cmd.Flags()}
	err := c.closeEach([]string{"B", "A", "C"})
	for _, words := range []string{"there is no tunnel /websocket_proxy/tunnels/C", "1 of 3 nodes failed: " + c.nodes[2].name} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("the error is %v, want %q", err, words)
		}
	}
	if err != nil && strings.Contains(err.Error(), "tunnels/A") {
		t.Errorf("the error is %v, of a tunnel that a node has", err)
	}
	if want := fmt.Sprintf("closing 2 tunnels: 1 at %s, 1 at %s\n", c.nodes[0].name, c.nodes[1].name); out.String() != want {
		t.Errorf("it prints %q, want %q", out, want)
	}
}

func TestAddressesOfNodes(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string // the origins, or an error
	}{
		{nil, "http://localhost:2019"},
		{[]string{"--address", ""}, "http://localhost:2019"},
		{[]string{"--address", "a:1"}, "http://a:1"},
		{[]string{"--address", "a:1, [::1]:2", "--address", "unix//run/c|0660"}, "http://a:1 http://[::1]:2 http://127.0.0.1"},
		{[]string{"--address", "https://a,https://[::1]:1/"}, "https://a:2021 https://[::1]:1"},
		{[]string{"--address", "a:1,,b:1"}, "one of the addresses is empty"},
		{[]string{"--address", "a:1,a:1"}, "a:1 is to be asked twice"},
		{[]string{"--address", "a:1-3"}, "several ports"},
		{[]string{"--address", "https://a:1/admin"}, "is not https:// with a host and a port"},
		{[]string{"--address", "https://user@a:1"}, "is not https:// with a host and a port"},
		{[]string{"--address", "https://"}, "is not https:// with a host and a port"},
		{[]string{"--address", "a:1", "--cacert", "x"}, "are for an --address with https://"},
		{[]string{"--address", "https://a", "--key", "x"}, "--cert and --key belong together"},
		{[]string{"--address", "https://a", "--cacert", "fleet_test.go"}, "fleet_test.go has no certificate"},
		{[]string{"--config", "none.json"}, "none.json"},
	} {
		cmd := new(cobra.Command)
		addNodeFlags(cmd)
		if err := cmd.ParseFlags(test.args); err != nil {
			t.Fatal(err)
		}
		nodes, err := findNodes(caddycmd.Flags{FlagSet: cmd.Flags()})
		var origins []string
		for _, n := range nodes {
			origins = append(origins, n.origin)
		}
		got := strings.Join(origins, " ")
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != test.want || !strings.Contains(got, test.want) {
			t.Errorf("%q: %q, want %q", test.args, got, test.want)
		}
	}
}

func TestAlertsOfTLSAreToldAsTheyAre(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: tls.AlertError(116)}
	for _, err := range []error{alert, fmt.Errorf("readLoopPeekFailLocked: %w", alert)} {
		n := &node{name: "a"}
		got := n.unreachable(&url.Error{Op: "Get", URL: "https://a", Err: err})
		if !strings.HasPrefix(got.Error(), "asking a: remote error: tls: certificate required: ") {
			t.Errorf("%v becomes %v", err, got)
		}
	}
}
