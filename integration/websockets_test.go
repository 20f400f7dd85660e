package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// websockets runs a subcommand of caddy websockets for c.
func (c *caddy) websockets(tb testing.TB, args ...string) (code int, stdout, stderr string) {
	tb.Helper()
	return c.subcommand(tb, append([]string{"websockets", "--address", c.admin}, args...)...)
}

// done runs a subcommand that has to succeed, and returns what it prints.
func (c *caddy) done(tb testing.TB, args ...string) (stdout string) {
	tb.Helper()
	code, stdout, stderr := c.websockets(tb, args...)
	want := 0
	if strings.Contains(stderr, "could not be stored") {
		want = 2
	}
	if code != want {
		tb.Fatalf("%v: code %d, want %d: %s%s", args, code, want, stdout, stderr)
	}
	return stdout
}

// decode reads JSON that a command has printed, which is all that it prints.
func decode[T any](tb testing.TB, stdout string) (v T) {
	tb.Helper()
	if err := json.Unmarshal([]byte(stdout), &v); err != nil {
		tb.Fatalf("%v in %q", err, stdout)
	}
	return v
}

// rows splits a table into fields, which are at least two spaces apart.
func rows(table string) (all [][]string) {
	for line := range strings.Lines(table) {
		all = append(all, regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1))
	}
	return all
}

// expectRows compares a table with rows of regular expressions.
func expectRows(tb testing.TB, table string, want ...[]string) {
	tb.Helper()
	got := rows(table)
	ok := len(got) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = len(got[i]) == len(want[i])
		for j := 0; ok && j < len(want[i]); j++ {
			ok = regexp.MustCompile("^(" + want[i][j] + ")$").MatchString(got[i][j])
		}
	}
	if !ok {
		tb.Errorf("the table is\n%swant rows like %q", table, want)
	}
}

var upstreamHeader = []string{"ADDRESS", "STATE", "HEALTH", "TUNNELS", "QUEUED", "SINCE", "BY", "EXPIRES"}

// startPair starts a Caddy with two upstreams, ordered by address.
func startPair(tb testing.TB) (c *caddy, one, two *testbed.Upstream) {
	tb.Helper()
	one, two = testbed.NewUpstream(tb, testbed.Echo), testbed.NewUpstream(tb, testbed.Echo)
	if one.Addr > two.Addr {
		one, two = two, one
	}
	return startCaddy(tb, site(proxyTo(one.Addr+" "+two.Addr, "name chat"))), one, two
}

func TestWebsocketsList(t *testing.T) {
	t.Parallel()
	c, one, two := startPair(t)
	clients, ids := c.openListed(t, 4)
	clients[0].Echo("hello")

	expectRows(t, c.done(t, "list"), upstreamHeader,
		[]string{one.Addr, "ready", "unchecked", "2", "0", "-", "-", "-"}, []string{two.Addr, "ready", "unchecked", "2", "0", "-", "-", "-"})
	type upstreams struct{ Upstreams []listedUpstream }
	want := []listedUpstream{
		{Address: one.Addr, State: "ready", Tunnels: 2, Configured: true},
		{Address: two.Addr, State: "ready", Tunnels: 2, Configured: true},
	}
	if got := decode[upstreams](t, c.done(t, "list", "--json")); !slices.Equal(got.Upstreams, want) {
		t.Errorf("as JSON, the upstreams are %+v, want %+v", got, want)
	}

	wantRows := [][]string{{"ID", "CLIENT", "PROTO", "UPSTREAM", "HANDLER", "AGE", "IDLE", "IN", "OUT", "MSGS IN", "MSGS OUT", "LABELS"}}
	sorted := slices.Sorted(slices.Values(ids))
	for _, id := range sorted {
		row := []string{id, "127.0.0.1", "h1", one.Addr + "|" + two.Addr, "chat", `\d+s`, `\d+s`, "0 B", "0 B", "0", "0", "-"}
		if id == ids[0] {
			copy(row[7:], []string{"11 B", "7 B", "1", "1"})
		}
		wantRows = append(wantRows, row)
	}
	expectRows(t, c.done(t, "list", "--tunnels"), wantRows...)

	type tunnels struct{ Tunnels []listedTunnel }
	for flags, want := range map[string]int{
		"--tunnels": 4, "--handler chat": 4, "--handler other": 0, "--upstream " + one.Addr: 2,
		"--client 127.0.0.0/8 --upstream " + two.Addr: 2, "--client ::1": 0,
	} {
		args := append([]string{"list", "--json"}, strings.Fields(flags)...)
		if got := decode[tunnels](t, c.done(t, args...)); len(got.Tunnels) != want {
			t.Errorf("list %s gives %+v, want %d", flags, got, want)
		}
	}
}

func TestWebsocketsClose(t *testing.T) {
	t.Parallel()
	c, one, two := startPair(t)
	clients, ids := c.openListed(t, 8)

	wait := leave(t, 4001, clients[0], clients[1])
	if got := c.done(t, "close", ids[0], ids[1], "--code", "4001", "--reason", "two of them"); got != "closing 2 tunnels\n" {
		t.Errorf("close says %q", got)
	}
	wait()
	wait = leave(t, 1001, clients[2])
	code, stdout, stderr := c.websockets(t, "close", "none", ids[2])
	if code != 1 || stdout != "" || !strings.Contains(stderr, `no tunnel \"none\"`) || !strings.Contains(stderr, "but closing 1 tunnel") {
		t.Errorf("closing one that is there and one that is not: code %d, %s%s", code, stdout, stderr)
	}
	wait()
	for _, id := range ids[:3] {
		if line := c.log.waitOne(t, message("tunnel closed", "tunnel", id)); line.str("reason") != "killed" {
			t.Errorf("the log has %v", line)
		}
	}

	type closing struct {
		Closing int
		Period  float64
	}
	wait = leave(t, 1013, clients[3:]...)
	total := 0
	for _, up := range []*testbed.Upstream{one, two} {
		got := decode[closing](t, c.done(t, "close", "--json", "--upstream", up.Addr, "--code", "1013", "--period", "300ms"))
		if got.Period != 0.3 {
			t.Errorf("the answer is %+v, want a period of 0.3", got)
		}
		total += got.Closing
	}
	if total != 5 {
		t.Errorf("%d tunnels are being closed, want 5", total)
	}
	wait()
	eventually(t, "no tunnel is left", func() bool { return len(c.listedTunnels(t, "")) == 0 })
	if got := c.done(t, "close", "--all"); got != "closing 0 tunnels\n" {
		t.Errorf("close says %q", got)
	}
}

func TestWebsocketsStates(t *testing.T) {
	t.Parallel()
	c, one, two := startPair(t)
	c.openListed(t, 2)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	by := me.Username + "@" + host

	if got, want := c.done(t, "drain", one.Addr, "--for", "2h"), one.Addr+" gets no newcomers, 1 open\n"; got != want {
		t.Errorf("drain says %q, want %q", got, want)
	}
	c.openListed(t, 2)
	expectRows(t, c.done(t, "list"), upstreamHeader,
		[]string{one.Addr, "drain", "unchecked", "1", "0", `\d+s ago`, regexp.QuoteMeta(by), "in (2h0m|1h59m|59m.*)"},
		[]string{two.Addr, "ready", "unchecked", "3", "0", "-", "-", "-"})

	if got, want := c.done(t, "ready", one.Addr), one.Addr+" gets new tunnels, 1 open\n"; got != want {
		t.Errorf("ready says %q, want %q", got, want)
	}
	if got, want := c.done(t, "maint", two.Addr, "--for", "2h"), two.Addr+" gets no new tunnels, 3 open\n"; got != want {
		t.Errorf("maint says %q, want %q", got, want)
	}
	got := decode[listedUpstream](t, c.done(t, "maint", two.Addr, "--json"))
	if want := (listedUpstream{Address: two.Addr, State: "maint", Tunnels: 3, Configured: true, By: by}); got != want {
		t.Errorf("maint --json prints %+v, want %+v", got, want)
	}
	c.openListed(t, 2)
	if got := c.listedUpstreams(t)[one.Addr]; got.State != "ready" || got.Tunnels != 3 {
		t.Errorf("the upstream is %+v, want it ready with 3 tunnels", got)
	}
}

// TestWebsocketsEvict empties one upstream under the eyes of the command.
func TestWebsocketsEvict(t *testing.T) {
	t.Parallel()
	c, one, two := startPair(t)
	clients, ids := c.openListed(t, 12)
	var leaving []*testbed.Client
	for _, listed := range c.listedTunnels(t, "upstream="+one.Addr) {
		leaving = append(leaving, clients[slices.Index(ids, listed.ID)])
	}
	wait := leave(t, 1012, leaving...)
	said := strings.Split(strings.TrimSpace(c.done(t, "evict", one.Addr, "--period", "2s")), "\n")
	wait()
	if last := said[len(said)-1]; last != one.Addr+" is empty" {
		t.Errorf("evict says %q last", last)
	}
	left := 7 // one of the six may have ended before the first answer
	for _, line := range said[:len(said)-1] {
		n := 0
		if _, err := fmt.Sscanf(line, one.Addr+" is being emptied, %d left", &n); err != nil || n >= left || n < 1 {
			t.Errorf("after %d, evict says %q, %v", left, line, err)
		}
		left = n
	}
	if left == 6 || len(said) < 2 {
		t.Errorf("evict has shown no progress: %q", said)
	}
	one.WaitOpen(t, 0)

	// To programs it says one thing, when it is over: the clients do not answer.
	got := decode[listedUpstream](t, c.done(t, "evict", two.Addr, "--period", "0", "--json"))
	if got.Address != two.Addr || got.State != "evict" || got.Tunnels != 0 {
		t.Errorf("evict --json prints %+v", got)
	}
	two.WaitOpen(t, 0)
}

// TestWebsocketsEvictIsTakenBack sets the upstream to ready while the command
// waits.
func TestWebsocketsEvictIsTakenBack(t *testing.T) {
	t.Parallel()
	c, one, _ := startPair(t)
	c.openListed(t, 2)
	got := decode[listedUpstream](t, c.done(t, "evict", one.Addr, "--period", "12h", "--no-wait", "--json"))
	if got.State != "evict" || got.Tunnels != 1 {
		t.Errorf("evict --no-wait prints %+v", got)
	}
	c.done(t, "ready", one.Addr)
	c.openListed(t, 40) // whose random moments are not all in the first minutes
	ended := make(chan struct{})
	testbed.Go(t, func(tb testing.TB) {
		defer close(ended)
		code, _, stderr := c.websockets(tb, "evict", one.Addr, "--period", "12h")
		// What it says depends on whether it has looked before.
		if code != 1 || !strings.Contains(stderr, "not being emptied any more: its state is ready") &&
			!strings.Contains(stderr, one.Addr+" is in state ready: ") {
			tb.Errorf("evict ended with code %d: %s", code, stderr)
		}
	})
	eventually(t, "the upstream is being emptied", func() bool { return c.listedUpstreams(t)[one.Addr].State == "evict" })
	c.done(t, "ready", one.Addr)
	within(t, "evict has ended", ended)
}

// TestWebsocketsWatch reads what the command prints while things change, across
// a reload.
func TestWebsocketsWatch(t *testing.T) {
	t.Parallel()
	c, one, two := startPair(t)
	cmd := c.command(t, "", "websockets", "watch", "--json", "--address", c.admin)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	kill := time.AfterFunc(2*timeout, func() { _ = cmd.Process.Kill() }) // ends the reads
	defer kill.Stop()
	lines := json.NewDecoder(stdout)
	expect := func(state string, tunnels int) {
		t.Helper()
		for { // changes may come one by one
			var list struct{ Upstreams []listedUpstream }
			if err := lines.Decode(&list); err != nil {
				t.Fatalf("waiting for %s with %d tunnels: %v", state, tunnels, err)
			}
			u := list.Upstreams
			if len(u) != 2 || u[0].Address != one.Addr || u[1].Address != two.Addr {
				t.Fatalf("the upstreams are %+v", u)
			}
			if u[0].State == state && u[0].Tunnels+u[1].Tunnels == tunnels {
				return
			}
		}
	}
	expect("ready", 0)
	c.openListed(t, 2)
	expect("ready", 2)
	c.reload(t, site("respond /other ok\n"+proxyTo(one.Addr+" "+two.Addr)))
	c.done(t, "drain", one.Addr)
	expect("drain", 2)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(io.MultiReader(lines.Buffered(), stdout))
	if err != nil || strings.TrimSpace(string(rest)) != "" {
		t.Errorf("it has printed more than the changes: %q, %v", rest, err)
	}
}
