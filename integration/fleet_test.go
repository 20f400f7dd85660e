package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// fleet are several Caddys, and where their admin endpoints are.
type fleet struct {
	nodes     []*caddy
	addresses []string
	flags     []string // that all commands get
}

// sharedName is an address that means the same on all machines, to which there are
// handshakes below /other only.
const sharedName = "backend.example.com:9000"

// startFleet starts Caddys that proxy to one upstream.
func startFleet(tb testing.TB, n int, upstream string, options ...string) *fleet {
	tb.Helper()
	f := new(fleet)
	body := "handle /other {\nwebsocket_proxy " + sharedName + "\n}\n" + proxyTo(upstream, "name chat", "label user alice")
	for range n {
		c := startCaddy(tb, site(body, options...))
		f.nodes, f.addresses = append(f.nodes, c), append(f.addresses, c.admin)
	}
	return f
}

// ask runs a subcommand of caddy websockets for all nodes, and for others.
func (f *fleet) ask(tb testing.TB, others []string, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	all := append([]string{"websockets", "--address", strings.Join(slices.Concat(f.addresses, others), ",")}, f.flags...)
	return f.nodes[0].subcommand(tb, append(all, args...)...)
}

// done runs a subcommand that has to succeed everywhere.
func (f *fleet) done(tb testing.TB, args ...string) (stdout string) {
	tb.Helper()
	code, stdout, stderr := f.ask(tb, nil, args...)
	if code != 0 {
		tb.Fatalf("%v: code %d: %s%s", args, code, stdout, stderr)
	}
	return stdout
}

// sets counts how often the state of an upstream was set by a request.
func (f *fleet) sets() (n []int) {
	for _, c := range f.nodes {
		n = append(n, len(c.log.find(func(e entry) bool {
			return e.str("msg") == "received request" && e.str("method") == http.MethodPost &&
				e.str("uri") == "/websocket_proxy/upstreams/state"
		})))
	}
	return n
}

// expectSets waits for the lines of requests, which come when these have been answered.
func (f *fleet) expectSets(t *testing.T, want ...int) {
	t.Helper()
	eventually(t, fmt.Sprintf("states were set %v times", want), func() bool {
		n := f.sets()
		for i := range n {
			if n[i] > want[i] {
				t.Fatalf("states were set %v times, want %v", n, want)
			}
		}
		return slices.Equal(n, want)
	})
}

var (
	fleetHeader   = append([]string{"NODE"}, upstreamHeader...)
	tunnelsHeader = []string{"NODE", "ID", "CLIENT", "PROTO", "UPSTREAM", "HANDLER", "AGE", "IDLE", "IN", "OUT", "MSGS IN", "MSGS OUT", "LABELS"}
)

// expectFleet checks what list prints of two nodes that have one and two tunnels.
func expectFleet(tb testing.TB, table string, nodes []string, up string) {
	tb.Helper()
	row := func(node, address, state, tunnels string) []string {
		health := "unchecked"
		if state == "-" {
			health = "-"
		}
		return []string{node, address, state, health, tunnels, "0", "-", "-", "-"}
	}
	expectRows(tb, table, fleetHeader,
		row(nodes[0], up, "ready", "1"), row(nodes[0], sharedName, "ready", "0"),
		row(nodes[1], up, "ready", "2"), row(nodes[1], sharedName, "ready", "0"),
		row("all", up, "ready", "3"), row("all", sharedName, "ready", "0"), row("all", "-", "-", "3"))
}

// operate lists and closes tunnels of two nodes: one has one tunnel, the other two.
func (f *fleet) operate(t *testing.T, up string) {
	t.Helper()
	first, firstIDs := f.nodes[0].openListed(t, 1)
	second, secondIDs := f.nodes[1].openListed(t, 2)
	f.list(t, up, slices.Concat(firstIDs, secondIDs))
	f.close(t, slices.Concat(first, second), slices.Concat(firstIDs, secondIDs))
}

func (f *fleet) list(t *testing.T, up string, ids []string) {
	t.Helper()
	expectFleet(t, f.done(t, "list"), f.addresses, up)
	rows := [][]string{tunnelsHeader}
	anyID := strings.Join(ids[1:], "|")
	for i, id := range []string{ids[0], anyID, anyID} {
		rows = append(rows, []string{
			f.addresses[min(i, 1)], id, "127.0.0.1", "h1", up, "chat", `\d+s`, `\d+s`, "0 B", "0 B", "0", "0", "user=alice",
		})
	}
	rows = append(rows, []string{"all", "3 tunnels", "-", "-", "-", "-", "-", "-", "0 B", "0 B", "0", "0", "-"})
	expectRows(t, f.done(t, "list", "--tunnels"), rows...)

	type of struct{ Node, ID, Address string }
	tunnels := decode[struct{ Tunnels []of }](t, f.done(t, "list", "--handler", "chat", "--json")).Tunnels
	if len(tunnels) != 3 || tunnels[0] != (of{Node: f.addresses[0], ID: ids[0]}) || tunnels[2].Node != f.addresses[1] {
		t.Errorf("as JSON, the tunnels are %+v", tunnels)
	}
	upstreams := decode[struct{ Upstreams []of }](t, f.done(t, "list", "--json")).Upstreams
	if len(upstreams) != 4 || upstreams[0] != (of{Node: f.addresses[0], Address: up}) || upstreams[3].Node != f.addresses[1] {
		t.Errorf("as JSON, the upstreams are %+v", upstreams)
	}
}

func (f *fleet) close(t *testing.T, clients []*testbed.Client, ids []string) {
	t.Helper()
	wait := leave(t, 4001, clients[:2]...)
	said := f.done(t, "close", ids[1], ids[0], "--code", "4001")
	if want := "closing 2 tunnels: 1 at " + f.addresses[0] + ", 1 at " + f.addresses[1] + "\n"; said != want {
		t.Errorf("close says %q, want %q", said, want)
	}
	wait()
	wait = leave(t, 1001, clients[2])
	eventually(t, "one tunnel is listed", func() bool {
		return strings.Count(f.done(t, "list", "--tunnels"), "chat") == 1
	})
	type closing struct {
		Closing int
		Nodes   []struct {
			Node    string
			Closing int
		}
	}
	got := decode[closing](t, f.done(t, "close", "--label", "user=alice", "--json"))
	if got.Closing != 1 || len(got.Nodes) != 2 || got.Nodes[1].Node != f.addresses[1] || got.Nodes[1].Closing != 1 {
		t.Errorf("close --json prints %+v", got)
	}
	wait()
	code, stdout, stderr := f.ask(t, nil, "close", ids[0])
	if code != 1 || stdout != "" || !strings.Contains(stderr, "no tunnel") {
		t.Errorf("closing one that no node has: code %d, %s%s", code, stdout, stderr)
	}
}

// TestFleetBySockets also asks for a socket that is not there, whose node keeps nobody
// from the others.
func TestFleetBySockets(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "integration") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	up := testbed.NewUpstream(t, testbed.Echo).Addr
	f := startFleet(t, 2, up)
	var configs []string
	for i, c := range f.nodes {
		_, config, err := c.adminRequest(t, http.MethodGet, "/config/", "")
		socket := "unix/" + filepath.Join(dir, strconv.Itoa(i))
		moved := strings.Replace(config, `"listen":"`+c.admin+`"`, `"listen":"`+socket+`"`, 1)
		if err != nil || moved == config {
			t.Fatalf("the configuration is %s, %v", config, err)
		}
		configs = append(configs, write(t, "{\nadmin "+socket+"\n}\n"))
		loadJSON(t, c, moved)
		f.addresses[i] = socket
	}
	// The tunnels are opened by way of the first admin endpoints, which are gone.
	clients := []*testbed.Client{f.nodes[0].dial(t, false), f.nodes[1].dial(t, false), f.nodes[1].dial(t, false)}
	var ids []string
	for _, client := range clients {
		ids = append(ids, tunnelID(client.Handshake("/")))
	}
	eventually(t, "all are listed", func() bool {
		return strings.Count(f.done(t, "list", "--tunnels"), "chat") == len(ids)
	})
	f.list(t, up, ids)

	code, stdout, stderr := f.nodes[0].subcommand(t, "websockets", "list", "--config", configs[0], "--config", configs[1])
	if expectFleet(t, stdout, f.addresses, up); code != 0 {
		t.Errorf("by their configurations: code %d: %s", code, stderr)
	}
	away := "unix/" + filepath.Join(dir, "away")
	code, stdout, stderr = f.ask(t, []string{away}, "list")
	expectFleet(t, stdout, f.addresses, up)
	if code != 1 || !strings.Contains(stderr, "1 of 3 nodes failed: "+away+": did not answer: dial unix") {
		t.Errorf("with one that is away: code %d: %s", code, stderr)
	}
	code, stdout, _ = f.ask(t, []string{away}, "list", "--json")
	failed := decode[struct {
		Failed []struct{ Node, Error string }
	}](t, stdout).Failed
	if code != 1 || len(failed) != 1 || failed[0].Node != away || !strings.HasPrefix(failed[0].Error, "did not answer: ") {
		t.Errorf("as JSON, with one that is away: code %d: %s", code, stdout)
	}
	f.close(t, clients, ids)
}

// loadJSON gives a process a new configuration.
func loadJSON(tb testing.TB, c *caddy, config string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(timeLimit(tb), http.MethodPost, "http://"+c.admin+"/load", strings.NewReader(config))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		tb.Fatalf("loading %s: status %d", config, resp.StatusCode)
	}
	c.awaitNewListeners(tb)
}

// TestFleetOfWhichOneHangs stops a process, which then accepts connections and says
// nothing.
func TestFleetOfWhichOneHangs(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 2, testbed.NewUpstream(t, testbed.Echo).Addr)
	hangs := f.nodes[1]
	hangs.signal(t, syscall.SIGSTOP)
	defer hangs.signal(t, syscall.SIGCONT)
	code, stdout, stderr := f.ask(t, nil, "list")
	if code != 1 || !strings.Contains(stdout, f.addresses[0]) || !strings.Contains(stderr, hangs.admin+": did not answer: ") {
		t.Errorf("code %d, %s%s", code, stdout, stderr)
	}
}

// TestFleetStates sets states at two nodes that share their storage, while a third address
// is away.
func TestFleetStates(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo).Addr
	f := startFleet(t, 2, up, "storage file_system "+t.TempDir())
	f.nodes[0].openListed(t, 1)
	f.nodes[1].openListed(t, 2)
	expect := func(address, state string, sets ...int) {
		t.Helper()
		for _, c := range f.nodes {
			if got := c.upstreamState(t, address); got != state {
				t.Errorf("%s is %s at %s, want %s", address, got, c.admin, state)
			}
		}
		f.expectSets(t, sets...)
	}
	if got, want := f.done(t, "drain", sharedName), sharedName+" gets no newcomers, 0 open at 2 nodes\n"; got != want {
		t.Errorf("drain says %q, want %q", got, want)
	}
	expect(sharedName, "drain", 1, 0)
	if got, want := f.done(t, "drain", up, "--for", "1h"), up+" gets no newcomers, 3 open at 2 nodes\n"; got != want {
		t.Errorf("drain says %q, want %q", got, want)
	}
	expect(up, "drain", 2, 1)
	type state struct {
		Node, State string
		Local       bool
	}
	got := decode[struct{ Upstreams []state }](t, f.done(t, "ready", up, "--json")).Upstreams
	if want := []state{{f.addresses[0], "ready", true}, {f.addresses[1], "ready", true}}; !slices.Equal(got, want) {
		t.Errorf("ready --json prints %+v, want %+v", got, want)
	}

	// A node that is away beats everything else, but the others do what they are told.
	away := testbed.RefusedAddr(t)
	code, stdout, stderr := f.ask(t, []string{away}, "ready", sharedName)
	if code != 1 || stdout != sharedName+" gets new tunnels, 0 open at 2 nodes\n" || !strings.Contains(stderr, away+": did not answer: ") {
		t.Errorf("code %d: %q, %s", code, stdout, stderr)
	}
	expect(sharedName, "ready", 4, 2)
	code, _, stderr = f.ask(t, nil, "drain", "none:1")
	if code != 1 || !strings.Contains(stderr, "caddy websockets list shows") {
		t.Errorf("code %d: %s", code, stderr)
	}

	// The clients do not answer, so that their tunnels end by the eviction.
	said := strings.Split(f.done(t, "evict", up, "--period", "1s"), "\n")
	if first, last := said[0], said[len(said)-2]; !strings.Contains(first, " left at 2 nodes") || last != up+" is empty at 2 nodes" {
		t.Errorf("evict says %q first and %q last", first, last)
	}
	expect(up, "evict", 5, 3)
}

// TestFleetWithoutASharedStorage has nodes that do not hear of each other, one of which
// does not know the upstream.
func TestFleetWithoutASharedStorage(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 2, testbed.NewUpstream(t, testbed.Echo).Addr)
	stranger := startCaddy(t, site("respond ok"))
	code, stdout, stderr := f.ask(t, []string{stranger.admin}, "drain", sharedName)
	if code != 0 || stdout != sharedName+" gets no newcomers, 0 open at 2 nodes\n" || !strings.Contains(stderr, "has another storage") {
		t.Errorf("code %d: %q, %s", code, stdout, stderr)
	}
	f.expectSets(t, 1, 1)
}
