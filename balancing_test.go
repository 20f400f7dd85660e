package websocketproxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// dialAtOnce makes n handshakes at the same time. It returns the clients and
// the answers they got, in the same order.
func dialAtOnce(tb testing.TB, p *testProxy, n int) ([]*testbed.Client, []*http.Response) {
	tb.Helper()
	clients, answers := make([]*testbed.Client, n), make([]*http.Response, n)
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		ready.Add(1)
		done.Add(1)
		testbed.Go(tb, func(tb testing.TB) {
			tb.Helper()
			defer done.Done()
			c := testbed.Dial(tb, p.Addr)
			clients[i] = c
			ready.Done()
			<-start
			c.Send(testbed.HandshakeRequest("/", c.Host))
			answers[i] = c.Response()
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
	return clients, answers
}

func TestSimultaneousHandshakesAreSpreadEvenly(t *testing.T) {
	for _, policy := range []string{"least_conn", "round_robin"} {
		t.Run(policy, func(t *testing.T) {
			a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
			p := newProxy(t, &Handler{
				Upstreams:     upstreams(a.Addr, b.Addr),
				LoadBalancing: &LoadBalancing{SelectionPolicyRaw: json.RawMessage(`{"policy": "` + policy + `"}`)},
			})
			clients, answers := dialAtOnce(t, p, 100)
			for _, resp := range answers {
				if resp.StatusCode != http.StatusSwitchingProtocols {
					t.Errorf("status %d, want 101", resp.StatusCode)
				}
			}
			if gotA, gotB := tunnelsOf(a.Addr), tunnelsOf(b.Addr); gotA != 50 || gotB != 50 {
				t.Errorf("%d and %d tunnels counted, want 50 and 50", gotA, gotB)
			}
			a.WaitOpen(t, 50)
			b.WaitOpen(t, 50)
			for _, c := range clients {
				c.Close()
			}
		})
	}
}

func TestMaxTunnelsHoldsUnderPressure(t *testing.T) {
	const limit, attempts = 5, 50
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{
		Upstreams:     []*Upstream{{Dial: up.Addr, MaxTunnels: limit}},
		LoadBalancing: withoutQueue(),
	})
	clients, answers := dialAtOnce(t, p, attempts)
	open := 0
	for i, resp := range answers {
		switch resp.StatusCode {
		case http.StatusSwitchingProtocols:
			open++
			clients[i].Echo("hello")
		case http.StatusServiceUnavailable:
			expectRetryAfter(t, resp.Header)
		default:
			t.Errorf("status %d, want 101 or 503", resp.StatusCode)
		}
	}
	if open != limit || tunnelsOf(up.Addr) != limit || up.Accepted() != limit {
		t.Errorf("%d tunnels, %d counted, %d connections; want %d", open, tunnelsOf(up.Addr), up.Accepted(), limit)
	}
	// A place that becomes free can be taken.
	for i, resp := range answers {
		if resp.StatusCode == http.StatusSwitchingProtocols {
			clients[i].CloseHandshake(1000)
			clients[i].Close()
			break
		}
	}
	eventually(t, "a tunnel has ended", func() bool { return tunnelsOf(up.Addr) == limit-1 })
	testbed.Dial(t, p.Addr).Handshake("/")
	expectRefused(t, p, http.StatusServiceUnavailable)
	for _, c := range clients {
		c.Close()
	}
}

// withoutQueue has handshakes refused at once when all upstreams are full.
func withoutQueue() *LoadBalancing {
	return &LoadBalancing{Queue: &Queue{Size: -1}}
}

func expectRetryAfter(tb testing.TB, header http.Header) {
	tb.Helper()
	if after, err := strconv.Atoi(header.Get("Retry-After")); err != nil || after < 1 || after > 10 {
		tb.Errorf("Retry-After is %q, want 1 to 10", header.Get("Retry-After"))
	}
}

func TestFullUpstreamsAreAnsweredWith503(t *testing.T) {
	a, b := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	for name, test := range map[string]struct {
		policy string
		queue  *Queue
	}{
		"least_conn":        {"least_conn", &Queue{Size: -1}},
		"of another module": {"first", &Queue{Size: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			h := &Handler{
				Upstreams: []*Upstream{{Dial: a.Addr, MaxTunnels: 1}, {Dial: b.Addr, MaxTunnels: 2}},
				LoadBalancing: &LoadBalancing{
					SelectionPolicyRaw: json.RawMessage(`{"policy": "` + test.policy + `"}`), Queue: test.queue,
				},
			}
			p := newProxy(t, h)
			for range 3 {
				testbed.Dial(t, p.Addr).Handshake("/")
			}
			if gotA, gotB := tunnelsOf(a.Addr), tunnelsOf(b.Addr); gotA != 1 || gotB != 2 {
				t.Errorf("%d and %d tunnels counted, want 1 and 2", gotA, gotB)
			}
			expectRetryAfter(t, expectRefused(t, p, http.StatusServiceUnavailable))
			expectFields(t, p.line("handshake refused"), map[string]any{"cause": "no_upstream", "status": int64(503)})
		})
	}
}

func TestBackupStandsInForWhatIsFullOrDown(t *testing.T) {
	primary, backup := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{Upstreams: []*Upstream{
		{Dial: backup.Addr, Backup: true}, {Dial: primary.Addr, MaxTunnels: 2},
	}})
	expect := func(wantPrimary, wantBackup int) *testbed.Client {
		t.Helper()
		c := testbed.Dial(t, p.Addr)
		c.Handshake("/")
		if got, got2 := tunnelsOf(primary.Addr), tunnelsOf(backup.Addr); got != wantPrimary || got2 != wantBackup {
			t.Errorf("%d tunnels, %d to the backup; want %d and %d", got, got2, wantPrimary, wantBackup)
		}
		return c
	}
	first := expect(1, 0)
	expect(2, 0)
	expect(2, 1) // full
	first.CloseHandshake(1000)
	first.Close()
	eventually(t, "a tunnel has ended", func() bool { return tunnelsOf(primary.Addr) == 1 })
	primary.Stop()
	expect(1, 2) // down
	primary.Start(t)
	expect(2, 2)
}

func TestOnlyTheCookieOfTheUpstreamThatAcceptedIsSet(t *testing.T) {
	const policy = `{"policy": "cookie", "name": "backend", "secret": "s", "fallback": {"policy": "first"}}`
	up, dead := testbed.NewUpstream(t, testbed.Echo), testbed.RefusedAddr(t)
	other := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{
		Upstreams:     upstreams(dead, up.Addr, other.Addr),
		LoadBalancing: &LoadBalancing{SelectionPolicyRaw: json.RawMessage(policy)},
	})
	cookies := testbed.Dial(t, p.Addr).Handshake("/").Cookies()
	_, header := theirChoice(t, policy, []string{up.Addr}, clientRequest(0))
	want := (&http.Response{Header: header}).Cookies()[0]
	if len(cookies) != 1 || cookies[0].Value != want.Value {
		t.Fatalf("the cookies are %v, want only %v", cookies, want)
	}
	up.WaitOpen(t, 1)

	// With it, the client comes back to the same upstream and gets no new one.
	again := testbed.Dial(t, p.Addr).Handshake("/", "Cookie: "+want.Name+"="+want.Value)
	if got := again.Cookies(); len(got) != 0 || tunnelsOf(up.Addr) != 2 {
		t.Errorf("got cookies %v and %d tunnels, want none and 2", got, tunnelsOf(up.Addr))
	}
	// Until that is gone.
	up.Stop()
	moved := testbed.Dial(t, p.Addr).Handshake("/", "Cookie: "+want.Name+"="+want.Value)
	if got := moved.Cookies(); len(got) != 1 || got[0].Value == want.Value || tunnelsOf(other.Addr) != 1 {
		t.Errorf("got cookies %v and %d tunnels, want a new one and 1", got, tunnelsOf(other.Addr))
	}
}

// Policies of other modules see the fields that tell of the client as the
// upstream gets them, as they do in reverse_proxy.
func TestPoliciesOfOtherModulesSeeTheForwardedFields(t *testing.T) {
	const policy = `{"policy": "header", "field": "X-Forwarded-For"}`
	var dials []string
	for range 5 {
		dials = append(dials, testbed.NewUpstream(t, testbed.Echo).Addr)
	}
	p := newProxy(t, &Handler{
		Upstreams:     upstreams(dials...),
		LoadBalancing: &LoadBalancing{SelectionPolicyRaw: json.RawMessage(policy)},
	})
	asked := clientRequest(0)
	asked.Header.Set("X-Forwarded-For", "127.0.0.1")
	want, _ := theirChoice(t, policy, dials, asked)
	for i := range 20 {
		// This client is not trusted to say for whom it forwards.
		testbed.Dial(t, p.Addr).Handshake("/", fmt.Sprint("X-Forwarded-For: 198.51.100.", i))
		if got := tunnelsOf(want); got != i+1 {
			t.Fatalf("%d of %d tunnels are at the upstream of 127.0.0.1", got, i+1)
		}
	}
}
