package integration

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// agent is one written from HAProxy's manual: it answers each connection with a line. Who
// asks says who that is.
type agent struct {
	port string

	mu       sync.Mutex // guards what follows
	answer   string
	answered map[string]int
}

func startAgent(tb testing.TB) *agent {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	a := &agent{port: port, answered: make(map[string]int)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { a.serve(conn) })
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		all.Wait()
	})
	return a
}

func (a *agent) serve(conn net.Conn) {
	defer conn.Close()
	who, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	a.mu.Lock()
	answer := a.answer
	a.answered[strings.TrimSpace(who)]++
	a.mu.Unlock()
	_, _ = io.WriteString(conn, answer)
}

// says has the agent answer this, and waits until all who ask have heard it so often.
func (a *agent) says(tb testing.TB, answer string, times int) {
	tb.Helper()
	a.mu.Lock()
	a.answer = answer
	clear(a.answered)
	a.mu.Unlock()
	eventually(tb, "the agent is asked", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		// The last one may not have been taken in when it is counted.
		return a.answered["haproxy"] > times && a.answered["caddy"] > times
	})
}

// startHAProxyWithAgent runs an HAProxy with one server that has the agent, and returns
// what tells how the server is: state, weight and limit.
func startHAProxyWithAgent(tb testing.TB, server, agentPort string) (standing func() string) {
	tb.Helper()
	binary := testbed.Program(tb, "haproxy")
	dir, err := os.MkdirTemp("", "agent") //nolint:usetesting // a socket's path is short
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	config, socket := filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "stats")
	front := testbed.FreeAddr(tb)
	text := fmt.Sprintf(`global
	stats socket %s level admin
defaults
	mode http
	timeout connect 10s
	timeout client 60s
	timeout server 60s
frontend clients
	bind %s
	default_backend chat
backend chat
	balance roundrobin
	server a %s weight 100 maxconn 50 agent-check agent-port %s agent-inter 20ms agent-send "haproxy\n"
`, socket, front, server, agentPort)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	h := &haproxy{https: front, exited: make(chan struct{})}
	h.run(tb, binary, config)
	return func() string { return standingInHAProxy(tb, socket) }
}

func standingInHAProxy(tb testing.TB, socket string) string {
	tb.Helper()
	conn, err := new(net.Dialer).DialContext(tb.Context(), "unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "show stat\n"); err != nil {
		tb.Fatal(err)
	}
	rows, err := csv.NewReader(conn).ReadAll()
	if err != nil {
		tb.Fatal(err)
	}
	column := make(map[string]int)
	for i, name := range rows[0] {
		column[name] = i
	}
	for _, row := range rows {
		if row[1] == "a" {
			state, _, _ := strings.Cut(row[column["status"]], " ")
			if state == "no" { // no check, and nothing is said
				state = "UP"
			}
			return strings.Join([]string{state, row[column["weight"]], row[column["slim"]]}, " ")
		}
	}
	tb.Fatalf("HAProxy has no server: %v", rows)
	return ""
}

// standingInCaddy is what holds for an upstream of weight 100 and 50 tunnels at most, in
// the words of HAProxy.
func standingInCaddy(tb testing.TB, c *caddy) string {
	tb.Helper()
	var list struct{ Upstreams []struct{ Agent string } }
	c.api(tb, http.MethodGet, "upstreams", "", http.StatusOK, &list)
	state, weight, limit := "UP", "100", "50"
	isDrained, isDown := false, false
	for word := range strings.FieldsSeq(list.Upstreams[0].Agent) {
		most, isLimit := strings.CutPrefix(word, "maxconn:")
		part, isWeight := strings.CutSuffix(word, "%")
		switch {
		case isLimit:
			limit = most
		case isWeight:
			n, _ := strconv.Atoi(part)
			weight, isDrained = strconv.Itoa(min(n, 256)), isDrained || n == 0
		case word == "maint":
			state = "MAINT"
		case word == "drain":
			isDrained = true
		case word == "down", word == "fail", word == "stopped":
			isDown = true
		}
	}
	switch {
	case state == "MAINT":
	case isDown:
		state = "DOWN"
	case isDrained:
		state = "DRAIN"
	}
	return strings.Join([]string{state, weight, limit}, " ")
}

// TestAgentBesideHAProxy has an HAProxy and us ask the same agent, and go through all that
// it can say. Each answer comes after what was said before.
func TestAgentBesideHAProxy(t *testing.T) {
	if amount(1, 0) == 0 {
		t.Skip("takes seven seconds; set LONG to run it")
	}
	t.Parallel()
	a, up := startAgent(t), testbed.NewUpstream(t, testbed.Echo)
	standing := startHAProxyWithAgent(t, up.Addr, a.port)
	c := startCaddy(t, site(fmt.Sprintf(`websocket_proxy {
		upstream %s weight 100 max_tunnels 50
		health_agent %s interval 20ms send "caddy\n"
	}`, up.Addr, a.port)))
	for _, step := range []struct {
		answer, want string
		ours         string // where it is another one
	}{
		{"ready up\n", "UP 100 50", ""},
		{"75%\n", "UP 75 50", ""},
		{"\n", "UP 75 50", ""},
		{"hello\n", "UP 75 50", ""},
		{"75%x\n", "UP 75 50", ""},
		{"50% 75%x\n", "UP 75 50", ""},
		{"1% 2%\n", "UP 2 50", ""},
		{"0%\n", "UP 0 50", "DRAIN 0 50"}, // it drains, and is shown as what it is set to
		{"999%\n", "UP 256 50", ""},
		{"99999999999999999999%\n", "UP 256 50", ""},
		{"100% maxconn:30\n", "UP 100 30", ""},
		{"MaxConn:0\n", "UP 100 ", "UP 100 0"}, // no limit, which is shown as none
		{"maxconn:30x\n", "UP 100 ", "UP 100 0"},
		{"maxconn:30\n", "UP 100 30", ""},
		{"maxconn:-1\n", "UP 100 4294967295", "UP 100 30"}, // refused here
		{"maxconn:50\n", "UP 100 50", ""},
		{"drain\n", "DRAIN 100 50", ""},
		{"up\n", "DRAIN 100 50", ""},
		{"READY\r", "UP 100 50", ""},
		{"maint\n", "MAINT 100 50", ""},
		{"up\n", "MAINT 100 50", ""},
		{"ready\n", "UP 100 50", ""},
		{"down # disk\n", "DOWN 100 50", ""},
		{"75%\n", "DOWN 75 50", ""},
		{"ready\n", "DOWN 75 50", ""},
		{"up\n", "UP 75 50", ""},
		{"fail\n", "DOWN 75 50", ""},
		{"up\n", "UP 75 50", ""},
		{"stopped\n", "DOWN 75 50", ""},
		{"down up\n", "UP 75 50", ""},
		{"up, down\n", "DOWN 75 50", ""},
		{"ready\tup 100%,maxconn:50\nmaint\n", "UP 100 50", ""},
		{"75% maint", "UP 100 50", ""},                // no line; ours forgets, which is the same here
		{"75%\n", "UP 75 50", ""},                     // and hears again
		{"down", "UP 75 50", "UP 100 50"},             // forgotten
		{"75%,maxconn:30,maint\n", "MAINT 75 30", ""}, // as in a test of HAProxy's own
	} {
		a.says(t, step.answer, 4)
		if step.ours == "" {
			step.ours = step.want
		}
		// Who has asked so often may still be about to go by the answer.
		eventually(t, fmt.Sprintf("HAProxy has %q after %q", step.want, step.answer), func() bool { return standing() == step.want })
		eventually(t, fmt.Sprintf("Caddy has %q after %q", step.ours, step.answer), func() bool { return standingInCaddy(t, c) == step.ours })
	}
}

// TestQuestionsToAgentsAreCounted: those that are answered and those that are not, beside
// the probes of another check.
func TestQuestionsToAgentsAreCounted(t *testing.T) {
	t.Parallel()
	a, up := startAgent(t), testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr, "health_check tcp", "health_interval 20ms",
		"health_agent "+a.port+` interval 20ms send "caddy\n"`)))
	checks := func(kind, result string) float64 {
		return c.metrics(t)[fmt.Sprintf(`upstream_checks_total{kind=%q,result=%q,upstream=%q}`, kind, result, up.Addr)]
	}
	answers := func(line string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.answer = line
	}
	answers("down\n")
	eventually(t, "answers are counted", func() bool { return checks("agent", "passed") > 0 && checks("tcp", "passed") > 0 })
	answers("no line")
	eventually(t, "answers that are none are counted", func() bool { return checks("agent", "failed") > 0 })
	if n := checks("tcp", "failed"); n != 0 {
		t.Errorf("%v probes have failed, want none", n)
	}
}
