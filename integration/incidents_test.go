package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
)

// application is an upstream with which things go wrong.
type application struct {
	addr string
	// slow is how long it takes for a handshake; fickle has it close each tunnel at once.
	slow   atomic.Int64
	fickle atomic.Bool

	listener net.Listener
	server   *http.Server

	mu    sync.Mutex
	conns map[*gorilla.Conn]struct{}
}

func startApplication(tb testing.TB) *application {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	a := &application{addr: ln.Addr().String(), listener: ln, conns: make(map[*gorilla.Conn]struct{})}
	a.server = &http.Server{Handler: a}
	done := make(chan struct{})
	go func() {
		_ = a.server.Serve(ln)
		close(done)
	}()
	tb.Cleanup(func() {
		a.die()
		<-done
	})
	return a
}

// ServeHTTP implements http.Handler: it echoes.
func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	time.Sleep(time.Duration(a.slow.Load())) // it works
	var up gorilla.Upgrader
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // the client has gone
	}
	a.mu.Lock()
	a.conns[conn] = struct{}{}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.conns, conn)
		a.mu.Unlock()
		_ = conn.Close()
	}()
	for {
		if a.fickle.Load() {
			_ = conn.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1011, "no database"), time.Now().Add(timeout))
			return
		}
		kind, message, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

// die ends as a process that is killed does.
func (a *application) die() {
	_ = a.server.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for conn := range a.conns {
		if tcp, ok := conn.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// people are clients that come back a second or two after their tunnel has ended, if they stay at all.
type people struct {
	stop    chan struct{}
	wg      sync.WaitGroup
	refused atomic.Int64
}

func newPeople(tb testing.TB) *people {
	p := &people{stop: make(chan struct{})}
	tb.Cleanup(func() {
		close(p.stop)
		p.wg.Wait()
	})
	return p
}

// come has n people come. Each stays for so long, or for ever if stay is 0.
func (p *people) come(n int, url string, stay time.Duration) {
	for range n {
		p.wg.Go(func() {
			for {
				p.visit(url, stay)
				select {
				case <-p.stop:
					return
				case <-time.After(time.Second + rand.N(time.Second)):
				}
			}
		})
	}
}

func (p *people) visit(url string, stay time.Duration) {
	dialer := gorilla.Dialer{HandshakeTimeout: timeout}
	conn, resp, err := dialer.Dial(url, nil)
	if err != nil {
		if resp != nil {
			p.refused.Add(1)
		}
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
	defer func() {
		_ = conn.Close()
		<-gone
	}()
	if stay == 0 {
		stay = 24 * time.Hour
	}
	leave := time.After(stay)
	talk := time.NewTicker(5 * time.Second) // is pinged in between
	defer talk.Stop()
	for {
		select {
		case <-talk.C:
			_ = conn.WriteMessage(gorilla.TextMessage, []byte("hello")) // the reader sees what is wrong
		case <-leave:
			_ = conn.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Now().Add(timeout))
			select {
			case <-gone:
			case <-time.After(timeout):
			}
			return
		case <-gone:
			return
		case <-p.stop:
			return
		}
	}
}

// emptyHere are the expressions that have nothing to show in this run, and why.
var emptyHere = map[string]string{
	"WebSocketEvictionStuck":     "the eviction here comes to its end",
	"WebSocketStorageOutOfReach": "the storage here is a folder",
	"WebSocketDescriptors":       "descriptors do not run out here",

	"Failed attempts by upstream and cause B": "no attempt is given up here",

	"Handshakes at upstreams A":    "handshakes are not limited here",
	"Handshakes at upstreams B":    "handshakes are not limited here",
	"Load that upstreams report A": "no upstream reports here",
	"Weights that are changed A":   "nobody changes weights here",
}

// TestIncidents has a real Prometheus watch a real Caddy while things go wrong: each alert fires that should,
// the expressions of the documentation give the right answers, and all other expressions of rules and dashboard
// give data.
func TestIncidents(t *testing.T) {
	if amount(1, 0) == 0 {
		t.Skip("takes two minutes; set LONG to run it")
	}
	// Not beside others: alerts go by times.
	var apps []*application
	var addresses []string
	for range 5 {
		apps = append(apps, startApplication(t))
		addresses = append(addresses, apps[len(apps)-1].addr)
	}
	c := startCaddy(t, site(fmt.Sprintf(`
	handle /lobby {
		websocket_proxy %s {
			name lobby
		}
	}
	handle /small {
		websocket_proxy %s {
			name small
			max_tunnels 2
			queue 40 4s
		}
	}
	handle /dead {
		websocket_proxy %s {
			name dead
		}
	}
	handle {
		websocket_proxy %s {
			name chat
			max_tunnels 2000
			ping_interval 2s
			health_check tcp
			health_interval 2s
			health_fails 2
			evict_period 5s
		}
	}`, addresses[3], addresses[4], "127.0.0.1:1", strings.Join(addresses[:3], " "))))
	p := startPrometheus(t, c.admin)
	run := &incidents{t: t, caddy: c, prometheus: p, apps: apps, addresses: addresses, people: newPeople(t)}
	run.people.come(180, c.url("ws", "/"), 0)
	run.people.come(32, c.url("ws", "/"), 2*time.Second)
	run.people.come(6, c.url("ws", "/lobby"), time.Second)
	run.people.come(1, c.url("ws", "/dead"), time.Second)
	p.await(t, "an hour has passed", func() bool {
		return len(p.now(t, `count_over_time(job_handler:caddy_websocket_proxy_handshakes:rate5m{handler="chat"}[1h] offset 15m) >= 15`)) > 0
	})
	run.slowUpstream()
	run.killedUpstream()
	run.drainedRoom()
	run.fullRoom()
	run.storm()
	run.eviction()
	run.checkAlerts()
	run.checkExpressions()
}

// incidents is a run of things that go wrong, one after the other.
type incidents struct {
	t          *testing.T
	caddy      *caddy
	prometheus *prometheus
	apps       []*application
	addresses  []string
	people     *people
}

// answers evaluates the expressions below a heading of the documentation.
func (r *incidents) answers(heading string) (all [][]result) {
	r.t.Helper()
	for _, expr := range documented(r.t, heading, r.addresses) {
		found := r.prometheus.now(r.t, expr)
		var shown strings.Builder
		for _, one := range found {
			delete(one.Metric, "job")
			labels := fmt.Sprint(one.Metric)
			for i, addr := range r.addresses {
				labels = strings.ReplaceAll(labels, addr, fmt.Sprintf("10.0.0.%d:9000", i+1))
			}
			fmt.Fprintf(&shown, "  %.4g  %s\n", one.Last(), strings.TrimPrefix(labels, "map"))
		}
		r.t.Logf("%s\n%s%s", heading, expr, shown.String())
		all = append(all, found)
	}
	return all
}

// where returns the value of the series that has these labels, or fails.
func (r *incidents) where(found []result, labels ...string) float64 {
	r.t.Helper()
	for _, one := range found {
		is := true
		for i := 0; i < len(labels); i += 2 {
			is = is && one.Metric[labels[i]] == labels[i+1]
		}
		if is {
			return one.Last()
		}
	}
	r.t.Errorf("nothing with the labels %q in %v", labels, found)
	return 0
}

func (r *incidents) slowUpstream() {
	r.apps[1].slow.Store(int64(700 * time.Millisecond))
	r.prometheus.awaitAlert(r.t, "WebSocketUpstreamSlow", fmt.Sprintf("upstream=%q", r.addresses[1]))
	found := r.answers("Which upstream is slow?")
	// A busy machine makes all of them slow.
	slow, other := r.where(found[0], "upstream", r.addresses[1]), r.where(found[0], "upstream", r.addresses[0])
	if slow <= other {
		r.t.Errorf("the slow upstream takes %v s, another one %v s", slow, other)
	}
	r.apps[1].slow.Store(0)
}

func (r *incidents) killedUpstream() {
	before := r.prometheus.now(r.t, `sum(caddy_websocket_proxy_tunnels{handler="chat"})`)
	r.apps[2].die()
	r.prometheus.awaitAlert(r.t, "WebSocketTunnelsCut", `handler="chat"`)
	r.prometheus.await(r.t, "the clients are back", func() bool {
		now := r.prometheus.now(r.t, `sum(caddy_websocket_proxy_tunnels{handler="chat"})`)
		return now[0].Last() >= before[0].Last()-20
	})
	found := r.answers("Who was cut by the deploy, and how many came back?")
	if v := r.where(found[0], "upstream", r.addresses[2], "closed_by", "upstream"); v < 20 {
		r.t.Errorf("%v tunnels were cut by their upstream", v)
	}
	if v := r.where(found[1], "reason", "upstream_reset"); v < 20 {
		r.t.Errorf("%v tunnels were reset", v)
	}
	if v := found[2][0].Last(); v < 0.8 {
		r.t.Errorf("only %v of the clients have come back", v)
	}
}

func (r *incidents) drainedRoom() {
	r.caddy.done(r.t, "drain", r.addresses[3])
	r.prometheus.awaitAlert(r.t, "WebSocketNoUpstream", `handler="lobby"`)
	r.prometheus.awaitAlert(r.t, "WebSocketHandshakesFail", `handler="lobby"`)
	found := r.answers("Why do users of one room get 503?")
	if v := r.where(found[0], "handler", "lobby", "cause", "no_upstream"); v < 5 {
		r.t.Errorf("%v handshakes were refused", v)
	}
	if v := r.where(found[1], "handler", "lobby", "status", "drain"); v == 0 {
		r.t.Error("nothing is drained")
	}
	r.caddy.done(r.t, "ready", r.addresses[3])
}

func (r *incidents) fullRoom() {
	r.people.come(12, r.caddy.url("ws", "/small"), 2500*time.Millisecond)
	r.prometheus.awaitAlert(r.t, "WebSocketQueueGrows", `handler="small"`)
}

func (r *incidents) storm() {
	const heading = "Is the storm over?"
	for _, app := range r.apps[:2] {
		app.fickle.Store(true)
	}
	r.prometheus.awaitAlert(r.t, "WebSocketReconnectStorm", `handler="chat"`)
	found := r.answers(heading)
	if v := found[0][0].Last(); v < 4 {
		r.t.Errorf("handshakes come %v times as often as usual", v)
	}
	for _, app := range r.apps[:2] {
		app.fickle.Store(false)
	}
	r.prometheus.await(r.t, "the storm is over", func() bool {
		return len(r.prometheus.now(r.t, `ALERTS{alertname="WebSocketReconnectStorm",handler="chat"}`)) == 0 &&
			r.prometheus.now(r.t, documented(r.t, heading, nil)[0])[0].Last() < 1.5
	})
	found = r.answers(heading)
	if v := found[2][0].Last(); v < 0.8 {
		r.t.Errorf("only %v of the tunnels are there again", v)
	}
}

func (r *incidents) eviction() {
	r.caddy.done(r.t, "evict", r.addresses[1], "--period", "20s", "--no-wait")
	r.prometheus.await(r.t, "some tunnels have ended", func() bool {
		return len(r.prometheus.now(r.t, `increase(caddy_websocket_proxy_tunnels_closed_total{handler="chat",reason="evicted"}[15s]) > 20`)) > 0
	})
	found := r.answers("When will 10.0.0.2 be empty?")
	if left, seconds := found[0][0].Last(), found[1][0].Last(); left == 0 || seconds == 0 || seconds > 60 {
		r.t.Errorf("%v tunnels are left, for %v seconds", left, seconds)
	}
	asked := time.Now()
	r.prometheus.await(r.t, "the upstream is empty", func() bool {
		found := r.prometheus.now(r.t, fmt.Sprintf(`sum(caddy_websocket_proxy_tunnels{upstream=%q})`, r.addresses[1]))
		return len(found) > 0 && found[0].Last() == 0
	})
	r.t.Logf("it is empty after %v", time.Since(asked).Round(time.Second))
}

// checkAlerts compares the alerts that have fired with those that should have.
func (r *incidents) checkAlerts() {
	fired := make(map[string]bool)
	for _, one := range r.prometheus.all(r.t, `count by (alertname) (ALERTS{alertstate="firing"})`) {
		fired[one.Metric["alertname"]] = true
	}
	want := []string{
		"WebSocketHandshakesFail", "WebSocketNoUpstream", "WebSocketQueueGrows", "WebSocketReconnectStorm", "WebSocketTunnelsCut",
		"WebSocketUpstreamSlow",
	}
	if got := slices.Sorted(maps.Keys(fired)); !slices.Equal(got, want) {
		r.t.Errorf("these alerts have fired: %q, want %q", got, want)
	}
}

func (r *incidents) checkExpressions() {
	all := r.prometheus.rules(r.t)
	maps.Copy(all, dashboardExpressions(r.t))
	empty := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		found := r.prometheus.all(r.t, all[name])
		isData := slices.ContainsFunc(found, func(one result) bool { return one.isData() })
		if why, isEmpty := emptyHere[name]; isEmpty {
			empty++
			if isData {
				r.t.Errorf("%s gives data, though %s", name, why)
			}
		} else if !isData {
			r.t.Errorf("%s gives no data: %s", name, shorten(all[name]))
		}
	}
	if empty != len(emptyHere) {
		r.t.Errorf("of %d expressions that give nothing here, there are %d", len(emptyHere), empty)
	}
	r.t.Logf("%d expressions", len(all))
}
