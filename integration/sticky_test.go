package integration

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// backendField is the response field in which backends tell their address.
const backendField = "X-Backend"

// backend is an upstream for requests and WebSockets. It sends messages back.
type backend struct {
	addr   string
	server *httptest.Server

	mu      sync.Mutex // guards what follows
	sockets map[*gorilla.Conn]struct{}
	opened  int // handshakes so far

	serving sync.WaitGroup
}

// startBackends returns backends and their addresses in one string.
func startBackends(tb testing.TB, n int) (all []*backend, addrs string) {
	tb.Helper()
	var list []string
	for range n {
		b := &backend{sockets: make(map[*gorilla.Conn]struct{})}
		// Another process may be faster.
		eventually(tb, "a backend listens", func() bool {
			b.addr = testbed.FreeAddr(tb)
			return b.start(tb) == nil
		})
		tb.Cleanup(b.stop)
		all, list = append(all, b), append(list, b.addr)
	}
	return all, strings.Join(list, " ")
}

// start listens at the backend's address. It can be started again when it was
// stopped.
func (b *backend) start(tb testing.TB) error {
	tb.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(tb.Context(), "tcp", b.addr)
	if err != nil {
		return err
	}
	b.server = httptest.NewUnstartedServer(b)
	_ = b.server.Listener.Close()
	b.server.Listener = ln
	b.server.Start()
	return nil
}

// stop ends the backend and its connections.
func (b *backend) stop() {
	b.server.Close()
	b.mu.Lock()
	for conn := range b.sockets {
		_ = conn.Close()
	}
	b.mu.Unlock()
	b.serving.Wait()
}

// handshakes returns how many there were.
func (b *backend) handshakes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// ServeHTTP implements http.Handler.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.serving.Add(1)
	defer b.serving.Done()
	header := http.Header{backendField: {b.addr}}
	if !gorilla.IsWebSocketUpgrade(r) {
		maps.Copy(w.Header(), header)
		return
	}
	conn, err := new(gorilla.Upgrader).Upgrade(w, r, header)
	if err != nil {
		return // the client sees it
	}
	defer conn.Close()
	b.mu.Lock()
	b.opened++
	b.sockets[conn] = struct{}{}
	b.mu.Unlock()
	_ = serveGorilla(conn)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sockets, conn)
}

// visitor is a client of a site, as a browser is one: it polls and opens
// WebSockets, and keeps the cookies that it gets either way.
type visitor struct {
	c    *caddy
	path string
	// way is how it opens WebSockets: one of the schemes or of the connectors.
	way    string
	header http.Header
	// local are the addresses from which it connects, in turn.
	local []string
	jar   http.CookieJar
}

func newVisitor(tb testing.TB, c *caddy, way, path string) *visitor {
	tb.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &visitor{c: c, path: path, way: way, header: make(http.Header), jar: jar}
}

// twin returns another visitor that has the same cookies.
func (v *visitor) twin(tb testing.TB) *visitor {
	tb.Helper()
	other := newVisitor(tb, v.c, v.way, v.path)
	other.header, other.local = v.header.Clone(), slices.Clone(v.local)
	other.jar.SetCookies(v.site(), v.jar.Cookies(v.site()))
	return other
}

func (v *visitor) site() *url.URL {
	if v.way == "ws" || v.way == "h2c" {
		return &url.URL{Scheme: "http", Host: v.c.http}
	}
	return &url.URL{Scheme: "https", Host: v.c.https}
}

// cookie returns the cookie that the balancers have set.
func (v *visitor) cookie() string {
	for _, cookie := range v.jar.Cookies(v.site()) {
		return cookie.Value
	}
	return ""
}

func (v *visitor) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	if len(v.local) > 0 {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(v.local[0])}
		v.local = append(v.local[1:], v.local[0])
	}
	return d.DialContext(ctx, network, addr)
}

// poll does a request and returns the backend that has answered.
func (v *visitor) poll(tb testing.TB) string {
	tb.Helper()
	req, err := http.NewRequestWithContext(timeLimit(tb), http.MethodGet, v.site().String()+v.path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header = v.header.Clone()
	transport := &http.Transport{
		DialContext:       v.dial,
		TLSClientConfig:   v.c.certs.ClientConfig(),
		ForceAttemptHTTP2: true, // as browsers do, unlike for WebSockets
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Jar: v.jar}
	resp, err := client.Do(req)
	if err != nil {
		tb.Fatalf("polling %s: %v", req.URL, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		tb.Fatalf("polling %s: status %d: %s", req.URL, resp.StatusCode, body)
	}
	return resp.Header.Get(backendField)
}

// open opens a WebSocket over HTTP/1.1, and returns its backend.
func (v *visitor) open(tb testing.TB) (*gorillaClient, string) {
	tb.Helper()
	d := gorilla.Dialer{
		NetDialContext:   v.dial,
		HandshakeTimeout: timeout,
		TLSClientConfig:  v.c.certs.ClientConfig(),
		Jar:              v.jar,
	}
	scheme := map[string]string{"http": "ws", "https": "wss"}[v.site().Scheme]
	conn, resp, err := d.DialContext(timeLimit(tb), v.c.url(scheme, v.path), v.header)
	if err != nil {
		tb.Fatalf("opening a WebSocket of %s: %v: %+v", v.path, err, resp)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return &gorillaClient{Conn: conn, resp: resp}, resp.Header.Get(backendField)
}

// openStream opens a WebSocket over HTTP/2 or HTTP/3.
func (v *visitor) openStream(tb testing.TB) (*streamClient, string) {
	tb.Helper()
	var fields [][2]string
	for name, values := range v.header {
		fields = append(fields, [2]string{strings.ToLower(name), values[0]})
	}
	for _, cookie := range v.jar.Cookies(v.site()) {
		fields = append(fields, [2]string{"cookie", cookie.String()})
	}
	s := openWebSocket(tb, connectors[v.way](tb, v.c), webSocket(v.path, fields...))
	v.jar.SetCookies(v.site(), (&http.Response{Header: s.header}).Cookies())
	return s, s.header.Get(backendField)
}

// handshake opens a WebSocket, uses and closes it, and returns its backend.
func (v *visitor) handshake(tb testing.TB) string {
	tb.Helper()
	if connectors[v.way] != nil {
		s, backend := v.openStream(tb)
		s.echo(tb, "hello")
		s.send(tb, testbed.NewClose(1000, ""))
		s.expect(tb, testbed.NewClose(1000, ""))
		s.expectEnd(tb)
		return backend
	}
	client, backend := v.open(tb)
	echoText(tb, client, "hello")
	client.close(tb, 1000, "")
	return backend
}

// visit polls and opens a WebSocket, in this order or the other one, and
// returns the backend that both have to reach.
func (v *visitor) visit(tb testing.TB, pollFirst bool) string {
	tb.Helper()
	first, second := v.poll, v.handshake
	if !pollFirst {
		first, second = second, first
	}
	one, two := first(tb), second(tb)
	if one != two || one == "" {
		tb.Fatalf("%s %v: polling first: %t; the first came to backend %q, the second to %q",
			v.path, v.header, pollFirst, one, two)
	}
	return one
}

// bothTo is a route on which websocket_proxy and reverse_proxy balance over the
// same upstreams by the same policy.
func bothTo(addrs, policy string, reverseProxy ...string) string {
	return sideBySide(addrs, addrs, policy, reverseProxy...)
}

// sideBySide is bothTo with upstreams of its own for each of them.
func sideBySide(websockets, requests, policy string, reverseProxy ...string) string {
	return fmt.Sprintf("websocket_proxy %s {\nlb_policy %s\n}\nreverse_proxy %s {\nlb_policy %s\n%s\n}",
		websockets, policy, requests, policy, strings.Join(reverseProxy, "\n"))
}

// under is a route for the paths below /name/.
func under(name, route string) string {
	return "handle /" + name + "/* {\n" + route + "\n}"
}

// stickyPolicies are tried, with what makes somebody the client with
// this number to them.
var stickyPolicies = map[string]struct {
	policy string
	become func(v *visitor, i int)
	// anew is set if the choice is another one for a client without cookies.
	anew bool
	ways []string
}{
	"cookie": {
		policy: "cookie",
		become: func(*visitor, int) {},
		anew:   true,
		ways:   []string{"ws", "wss", "h2", "h2c", "h3"},
	},
	"secret": {
		policy: "cookie backend secret {\nfallback header X-User\nmax_age 1h\n}",
		become: func(v *visitor, i int) { v.header.Set("X-User", fmt.Sprint("user ", i)) },
		ways:   []string{"ws", "wss", "h2", "h2c", "h3"},
	},
	"ip_hash": {
		policy: "ip_hash",
		become: func(v *visitor, i int) { v.local = []string{fmt.Sprint("127.0.0.", i+2)} },
		ways:   schemes,
	},
	"client_ip_hash": {
		policy: "client_ip_hash",
		become: func(v *visitor, i int) {
			// Through a balancer that has several addresses itself.
			v.local = []string{"127.0.0.2", "127.0.0.3", "127.0.0.4"}
			v.header.Set("X-Forwarded-For", fmt.Sprint("203.0.113.", i))
		},
		ways: []string{"ws", "wss", "h2", "h2c", "h3"},
	},
	"header": {
		policy: "header X-User",
		become: func(v *visitor, i int) { v.header.Set("X-User", fmt.Sprint("user ", i)) },
		ways:   []string{"ws", "wss", "h2", "h2c", "h3"},
	},
	"forwarded": {
		policy: "header X-Forwarded-For",
		become: func(v *visitor, i int) { v.header.Set("X-Forwarded-For", fmt.Sprint("203.0.113.", i)) },
		ways:   []string{"ws", "wss", "h2", "h2c", "h3"},
	},
	"query": {
		policy: "query room",
		become: func(v *visitor, i int) { v.path += fmt.Sprint("?room=", i) },
		ways:   []string{"ws", "wss", "h2", "h2c", "h3"},
	},
	"uri_hash": {
		policy: "uri_hash",
		become: func(v *visitor, i int) { v.path += fmt.Sprintf("room/%d?lang=en", i) },
		ways:   []string{"ws", "wss", "h2", "h2c", "h3"},
	},
}

// TestPoliciesAgreeWithReverseProxy has the requests and the WebSockets of each
// of many clients reach the same backend.
func TestPoliciesAgreeWithReverseProxy(t *testing.T) {
	t.Parallel()
	clients := amount(30, 15)
	_, addrs := startBackends(t, 3)
	var routes []string
	for name, test := range stickyPolicies {
		routes = append(routes, under(name, bothTo(addrs, test.policy)))
	}
	trusting := strings.Replace(streaming, "servers {", "servers {\ntrusted_proxies static 127.0.0.0/8", 1)
	c := startCaddy(t, site(strings.Join(routes, "\n"), trusting))
	for _, name := range slices.Sorted(maps.Keys(stickyPolicies)) {
		t.Run(name, func(t *testing.T) {
			test := stickyPolicies[name]
			used := make(map[string]int)
			for i := range clients {
				polling := newVisitor(t, c, test.ways[i%len(test.ways)], "/"+name+"/")
				test.become(polling, i)
				if len(polling.local) > 0 {
					needLoopbackNet(t)
				}
				connecting := polling.twin(t)

				home := polling.visit(t, true)
				if again := polling.visit(t, false); again != home {
					t.Errorf("client %d comes to %s, and then to %s", i, home, again)
				}
				other := connecting.visit(t, false)
				if other != home && !test.anew {
					t.Errorf("client %d comes to %s, and with a WebSocket first to %s", i, home, other)
				}
				if again := connecting.visit(t, true); again != other {
					t.Errorf("client %d comes to %s, and then to %s", i, other, again)
				}
				used[home]++
			}
			// That they all come to the same one happens once in 10^6 runs, or 10^13 of the long ones.
			if len(used) < 2 {
				t.Errorf("%d clients came to %v, want several backends", clients, used)
			}
		})
	}
}

// needLoopbackNet skips the test where only 127.0.0.1 is this machine.
func needLoopbackNet(tb testing.TB) {
	tb.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(tb.Context(), "tcp", "127.0.0.2:0")
	if err != nil {
		tb.Skipf("not all of 127.0.0.0/8 is this machine: %v", err)
	}
	_ = ln.Close()
}
