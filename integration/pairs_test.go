package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// A pair is how the client of a tunnel is connected, and how its upstream is.
type pair struct{ client, upstream string }

func (p pair) String() string { return p.client + " to " + p.upstream }

// isStream reports whether the client's end is a stream that it shares a connection with.
func (p pair) isStream() bool { return !strings.HasPrefix(p.client, "h1") }

// protocol is that of the client, as logs and metrics call it.
func (p pair) protocol() string { return p.client[:2] }

// clientKinds ask for a WebSocket, each time over a connection of its own.
var clientKinds = map[string]func(tb testing.TB, c *caddy, path string) stream{
	"h1":     askBySocket(false),
	"h1 TLS": askBySocket(true),
	"h2":     askByStream("h2"),
	"h2c":    askByStream("h2c"),
	"h3":     askByStream("h3"),
}

// upstreamKinds listen, and return what has to be in the block of websocket_proxy and
// how its upstream is addressed.
var upstreamKinds = map[string]func(tb testing.TB, c *caddy) (up *testbed.Upstream, address, option string){
	"h1": func(tb testing.TB, _ *caddy) (*testbed.Upstream, string, string) {
		tb.Helper()
		up := testbed.NewUpstream(tb, nil)
		return up, up.Addr, ""
	},
	"h1 TLS": func(tb testing.TB, c *caddy) (*testbed.Upstream, string, string) {
		tb.Helper()
		up := testbed.NewTLSUpstream(tb, c.certs.ServerConfig(), nil)
		return up, up.Addr, "transport http {\ntls_trust_pool file " + c.certs.CAFile + "\n}"
	},
	"unix": func(tb testing.TB, _ *caddy) (*testbed.Upstream, string, string) {
		tb.Helper()
		up := testbed.NewUnixUpstream(tb, nil)
		return up, "unix/" + up.Addr, ""
	},
}

// pairs are all that there are.
func pairs() []pair {
	var all []pair
	for _, client := range slices.Sorted(maps.Keys(clientKinds)) {
		for _, upstream := range slices.Sorted(maps.Keys(upstreamKinds)) {
			all = append(all, pair{client, upstream})
		}
	}
	return all
}

func askByStream(protocol string) func(tb testing.TB, c *caddy, path string) stream {
	return func(tb testing.TB, c *caddy, path string) stream {
		tb.Helper()
		return connectors[protocol](tb, c)(tb, webSocket(path))
	}
}

func askBySocket(secure bool) func(tb testing.TB, c *caddy, path string) stream {
	return func(tb testing.TB, c *caddy, path string) stream {
		tb.Helper()
		s := socketClient{c.dial(tb, secure)}
		s.Send(testbed.HandshakeRequest(path, s.Host))
		return s
	}
}

// socketClient is a stream that is a connection of its own.
type socketClient struct{ *testbed.Client }

// readWithin waits for as long as all reads of the testbed do.
func (s socketClient) readWithin(p []byte, _ time.Duration) (int, error) { return s.Read(p) }

func (s socketClient) response(tb testing.TB) (status int, header http.Header) {
	tb.Helper()
	resp := s.Response()
	return resp.StatusCode, resp.Header
}

func (s socketClient) hints() []http.Header { return nil }

func (s socketClient) closeWrite(tb testing.TB) { tb.Helper(); s.CloseWrite() }

func (s socketClient) cancel(tb testing.TB) { tb.Helper(); s.Reset() }

// disconnect closes the connection without the farewell of TLS.
func (s socketClient) disconnect(testing.TB) { disconnect(s.Conn) }

// disconnect closes a connection without the farewell of TLS.
func disconnect(c *testbed.Conn) {
	if secure, ok := c.NetConn().(*tls.Conn); ok {
		_ = secure.NetConn().Close()
	}
	c.Close()
}

// A promise is something that a tunnel is promised, whatever its pair.
type promise struct {
	// options are those of websocket_proxy.
	options []string
	// upstreams is how many each handler has, 1 if it is zero.
	upstreams int
	keep      func(tb testing.TB, s *pairSite)
}

// pairSite is where a pair keeps a promise: a handler of its own, with upstreams of its
// own, all of one kind.
type pairSite struct {
	pair

	caddy     *caddy
	name      string // of promise and pair
	path      string
	ups       []*testbed.Upstream
	addresses []string
	directive string
}

func newPairSite(tb testing.TB, c *caddy, p pair, name string, kept promise) *pairSite {
	tb.Helper()
	slug := strings.ReplaceAll(name+"/"+p.String(), " ", "-")
	s := &pairSite{pair: p, caddy: c, name: slug, path: "/" + slug}
	options := slices.Clone(kept.options)
	for range max(1, kept.upstreams) {
		up, address, option := upstreamKinds[p.upstream](tb, c)
		s.ups, s.addresses = append(s.ups, up), append(s.addresses, address)
		if len(s.ups) == 1 {
			options = append(options, option)
		}
	}
	s.directive = "handle " + s.path + " {\n" + proxyTo(strings.Join(s.addresses, " "), options...) + "\n}"
	return s
}

// pairTunnel is an open tunnel with both its ends.
type pairTunnel struct {
	site   *pairSite
	client *streamClient
	u      *testbed.Conn
	id     string
}

// accepts is the status of a handshake that opens a tunnel.
func (s *pairSite) accepts() int {
	if s.isStream() {
		return http.StatusOK
	}
	return http.StatusSwitchingProtocols
}

// refused tries to open a tunnel, and returns the status.
func (s *pairSite) refused(tb testing.TB) int {
	tb.Helper()
	end := clientKinds[s.client](tb, s.caddy, s.path)
	status, _ := end.response(tb)
	end.disconnect(tb)
	return status
}

// handshaking has room for the handshakes that are under way: all of them at once would
// take long, and tunnels may expire meanwhile.
var handshaking = make(chan struct{}, 4)

// open opens a tunnel.
func (s *pairSite) open(tb testing.TB) *pairTunnel {
	tb.Helper()
	return s.openAs(tb, func() string { return "" })
}

// openAs opens a tunnel with a query.
func (s *pairSite) openAs(tb testing.TB, query func() string) *pairTunnel {
	tb.Helper()
	handshaking <- struct{}{}
	defer func() { <-handshaking }()
	t := &pairTunnel{site: s}
	accepted := testbed.Go(tb, func(tb testing.TB) {
		t.u = s.ups[0].Next(tb)
		t.u.AcceptHandshake()
	})
	end := clientKinds[s.client](tb, s.caddy, s.path+query())
	status, header := end.response(tb)
	if want := s.accepts(); status != want {
		tb.Fatalf("the handshake is answered with %d, want %d: %v", status, want, header)
	}
	accepted()
	t.client = &streamClient{stream: end, in: bufio.NewReader(streamReader{end}), header: header}
	t.id = tunnelID(&http.Response{Header: header})
	return t
}

// talk has both ends say something, so that there is a tunnel and it is in order.
func (t *pairTunnel) talk(tb testing.TB) {
	tb.Helper()
	t.client.send(tb, testbed.NewFrame(testbed.Text, "up"))
	t.u.ExpectFrame(testbed.Text, "up")
	t.u.WriteFrame(testbed.NewFrame(testbed.Text, "down"))
	t.client.expect(tb, testbed.NewFrame(testbed.Text, "down"))
}

// leave has the client close in the regular way.
func (t *pairTunnel) leave(tb testing.TB) {
	tb.Helper()
	t.client.send(tb, testbed.NewClose(1000, ""))
	t.u.ExpectClose(1000)
	t.u.WriteFrame(testbed.NewClose(1000, ""))
	t.u.Close()
	t.client.expect(tb, testbed.NewClose(1000, ""))
	t.expectEnd(tb)
}

// expectEnd has the client see the end, and end its direction too where that is left to it.
func (t *pairTunnel) expectEnd(tb testing.TB) {
	tb.Helper()
	t.client.expectEnd(tb)
	switch s := t.client.stream.(type) {
	case socketClient:
		s.Close()
	case *h3Stream:
		_ = s.Close() // fails if it is not wanted any more
	}
}

// expectEnded has both ends react as they should to a Close of the proxy, each with its
// status, and expects the reason in the log.
func (t *pairTunnel) expectEnded(tb testing.TB, reason, closedBy string, toClient, toUpstream testbed.Frame) {
	tb.Helper()
	t.client.expect(tb, toClient)
	t.client.send(tb, testbed.Frame{Fin: true, Opcode: testbed.Close, Payload: toClient.Payload})
	t.u.ExpectFrame(testbed.Close, string(toUpstream.Payload))
	t.u.Close()
	t.expectEnd(tb)
	t.expectLine(tb, reason, closedBy)
}

// line waits for the line of the tunnel's end.
func (t *pairTunnel) line(tb testing.TB) entry {
	tb.Helper()
	return t.site.caddy.log.waitOne(tb, message("tunnel closed", "tunnel", t.id))
}

func (t *pairTunnel) expectLine(tb testing.TB, reason, closedBy string) {
	tb.Helper()
	line := t.line(tb)
	if line.str("reason") != reason || line.str("closed_by") != closedBy || line.str("protocol") != t.site.protocol() {
		tb.Errorf("the line is %v, want the reason %s by %s, over %s", line, reason, closedBy, t.site.protocol())
	}
}

// named puts the name of a pair before what is said of it.
type named struct {
	testing.TB

	name string
}

func (n named) Error(args ...any) {
	n.Helper()
	n.TB.Error(append([]any{n.name + ":"}, args...)...)
}

func (n named) Errorf(format string, args ...any) {
	n.Helper()
	n.TB.Errorf(n.name+": "+format, args...)
}

func (n named) Fatal(args ...any) {
	n.Helper()
	n.TB.Fatal(append([]any{n.name + ":"}, args...)...)
}

func (n named) Fatalf(format string, args ...any) {
	n.Helper()
	n.TB.Fatalf(n.name+": "+format, args...)
}

// onEachPair does something at all sites at once, as most of the time is waited. It fails
// the test unless that comes to its end for all pairs that there are.
func onEachPair(t *testing.T, sites []*pairSite, do func(tb testing.TB, s *pairSite)) {
	t.Helper()
	var mu sync.Mutex
	done := make(map[pair]bool)
	var waits []func()
	for _, s := range sites {
		waits = append(waits, testbed.Go(named{t, s.String()}, func(tb testing.TB) {
			do(tb, s)
			mu.Lock()
			defer mu.Unlock()
			done[s.pair] = true
		}))
	}
	for _, wait := range waits {
		wait()
	}
	for _, p := range pairs() {
		if !done[p] && !t.Failed() {
			t.Errorf("%v has not come to the end", p)
		}
	}
}

// newPairSites makes the sites of a promise, one for each pair.
func newPairSites(tb testing.TB, c *caddy, name string, kept promise) []*pairSite {
	tb.Helper()
	var sites []*pairSite
	for _, p := range pairs() {
		sites = append(sites, newPairSite(tb, c, p, name, kept))
	}
	return sites
}

// caddyfileOf is the configuration with these sites.
func caddyfileOf(more string, all ...*pairSite) string {
	plain, secure := "log\n"+more+"\n", "log\n"+more+"\n"
	for _, s := range all {
		if s.client == "h1" || s.client == "h2c" {
			plain += s.directive + "\n"
		} else {
			secure += s.directive + "\n"
		}
	}
	return sites(plain, secure, streaming)
}

func TestThereAreFifteenPairs(t *testing.T) {
	if got := pairs(); len(got) != 15 {
		t.Errorf("there are %d pairs, want each of h1, h1 TLS, h2, h2c and h3 with each of h1, h1 TLS and unix: %v", len(got), got)
	}
}

// TestPromises keeps every promise over every pair, in one Caddy, which has nothing left
// of any of them at the end.
func TestPromises(t *testing.T) {
	t.Parallel()
	c := prepareCaddy(t)
	var all []*pairSite
	sites := make(map[string][]*pairSite)
	for name, kept := range promises {
		sites[name] = newPairSites(t, c, name, kept)
		all = append(all, sites[name]...)
	}
	c.run(t, caddyfileOf(renewals, all...), "GODEBUG=http2xconnect=1")
	var running sync.WaitGroup
	for name, kept := range promises {
		running.Go(func() { t.Run(name, func(t *testing.T) { onEachPair(t, sites[name], kept.keep) }) })
	}
	running.Wait()
	expectNothingLeft(t, c, all)
}

// expectNothingLeft expects that all counts have come back to zero.
func expectNothingLeft(t *testing.T, c *caddy, sites []*pairSite) {
	t.Helper()
	eventually(t, "no tunnel is listed", func() bool { return len(c.listedTunnels(t, "")) == 0 })
	for _, up := range c.listedUpstreams(t) {
		if up.Tunnels != 0 || up.Queued != 0 {
			t.Errorf("the upstream is left with %+v", up)
		}
	}
	var left []string
	defer func() {
		if len(left) > 0 {
			t.Logf("left are %v", left)
		}
	}()
	eventually(t, "the gauges of all are zero", func() bool {
		left = nil
		for series, value := range c.metrics(t) {
			for _, gauge := range []string{
				"tunnels{", "buffered_bytes{", "tunnels_stalled{", "tunnels_silent{",
				"handshakes_in_progress{", "queue_length{",
			} {
				if strings.HasPrefix(series, gauge) && value != 0 {
					left = append(left, fmt.Sprint(series, " ", value))
				}
			}
		}
		return len(left) == 0
	})
	for _, s := range sites {
		for _, up := range s.ups {
			up.WaitOpen(t, 0)
		}
	}
}
