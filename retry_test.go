package websocketproxy

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// tries starts upstreams with the same script and a proxy for them, and returns
// how many connections each of them gets by one handshake that is refused with
// a 502.
func tries(t *testing.T, upstreams int, script testbed.Script, options string) []int {
	t.Helper()
	h := with(t, testbed.RefusedAddr(t), options)
	h.Upstreams = nil
	ups := make([]*testbed.Upstream, upstreams)
	for i := range ups {
		ups[i] = testbed.NewUpstream(t, script)
		h.Upstreams = append(h.Upstreams, &Upstream{Dial: ups[i].Addr})
	}
	p := newProxy(t, h)
	c := testbed.Dial(t, p.Addr)
	p.expectRefusal(causeClosed, http.StatusBadGateway, func() {
		expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusBadGateway, notFromNext(nil))
	})
	accepted := make([]int, upstreams)
	for i, up := range ups {
		up.WaitOpen(t, 0)
		accepted[i] = up.Accepted()
		if n := tunnelsOf(up.Addr); n != 0 {
			t.Errorf("%d tunnels are counted, want 0", n)
		}
	}
	return accepted
}

func TestRetriesGoToOthersOnly(t *testing.T) {
	tests := map[string]struct {
		options string
		want    int
	}{
		"two without configuration": {`{}`, 3},
		"none":                      {`{"load_balancing": {"retries": 0}}`, 1},
		"one":                       {`{"load_balancing": {"retries": 1}}`, 2},
		"as many as there are":      {`{"load_balancing": {"retries": 100}}`, 5},
		"with a policy of reverse_proxy": {
			`{"load_balancing": {"selection_policy": {"policy": "ip_hash"}}}`, 3,
		},
		"with a policy that would choose the same": {
			`{"load_balancing": {"retries": 100, "selection_policy": {"policy": "first"}}}`, 5,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			total := 0
			for i, n := range tries(t, 5, testbed.CloseAfterHead, test.options) {
				if n > 1 {
					t.Errorf("upstream %d was tried %d times, want at most once", i, n)
				}
				total += n
			}
			if total != test.want {
				t.Errorf("%d tries, want %d", total, test.want)
			}
		})
	}
}

// The same address in two places is two chances.
func TestRetriesAreOncePerEntry(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.CloseAfterHead)
	p := proxyTo(t, up.Addr, up.Addr)
	c := testbed.Dial(t, p.Addr)
	expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), http.StatusBadGateway, nil)
	up.WaitAccepted(t, 2)
}

// What the client gets is about the last upstream that was tried.
func TestLastFailureIsTheAnswer(t *testing.T) {
	refused := testbed.RefusedAddr(t)
	up := testbed.NewUpstream(t, testbed.Respond("garbage\r\n"))
	h := with(t, refused, `{"load_balancing": {"selection_policy": {"policy": "first"}}}`)
	h.Upstreams = append(h.Upstreams, &Upstream{Dial: up.Addr})
	newProxy(t, h).expectGateway(t, up, causeBadAnswer, http.StatusBadGateway, "malformed")
}

func TestRetryIsANewRequest(t *testing.T) {
	failing := testbed.NewUpstream(t, nil)
	up := testbed.NewUpstream(t, nil)
	h := with(t, failing.Addr, `{"load_balancing": {"selection_policy": {"policy": "first"}}, "headers": {"request": {
		"set": {"Host": ["{http.reverse_proxy.upstream.hostport}"]}, "add": {"X-Try": ["{http.reverse_proxy.upstream.port}"]}}}}`)
	h.Upstreams = append(h.Upstreams, &Upstream{Dial: up.Addr})
	p := newProxy(t, h)
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com", "X-Try: 0"))
	first := failing.Next(t)
	first.ReadRequest()
	first.Close()
	second := up.Next(t)
	req := second.AcceptHandshake()
	c.Response()
	_, port, _ := cutLast(up.Addr, ":")
	expectFields(t, map[string]any{
		"host": req.Host, "tries": fmt.Sprint(req.Header.Values("X-Try")),
	}, map[string]any{"host": up.Addr, "tries": fmt.Sprintf("[0 %s]", port)})
}

func TestTryDurationWaitsForAnUpstream(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	up.Stop()
	p := newProxy(t, with(t, up.Addr, `{"load_balancing": {"try_duration": 60000000000, "try_interval": 1000000}}`))
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", "example.com"))
	p.line("trying another upstream")
	up.Start(t)
	if resp := c.Response(); resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status is %d, want 101", resp.StatusCode)
	}
	c.Echo("hello")
	if n := p.logs.FilterMessage("handshake refused").Len(); n != 0 {
		t.Errorf("%d refusals are logged, want 0", n)
	}
}

func TestTryDurationWaitsForAPlace(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	h := with(t, up.Addr, `{"load_balancing": {"try_duration": 60000000000, "try_interval": 1000000, "queue": {"size": -1}}}`)
	h.Upstreams[0].MaxTunnels = 1
	p := newProxy(t, h)
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")
	waiting := testbed.Dial(t, p.Addr)
	waiting.Send(testbed.HandshakeRequest("/", "example.com"))
	c.CloseHandshake(1000)
	c.Close()
	if resp := waiting.Response(); resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("status is %d, want 101", resp.StatusCode)
	}
}

func TestTryDurationEnds(t *testing.T) {
	tests := map[string]struct {
		options string
		cause   cause
		status  int
	}{
		"by itself": {
			`{"load_balancing": {"try_duration": 50000000, "try_interval": 1000000}}`,
			causeDialFailed, http.StatusBadGateway,
		},
		"when the interval would be longer": {
			`{"load_balancing": {"try_duration": 50000000}}`, causeDialFailed, http.StatusBadGateway,
		},
		"with the number of retries": {
			`{"load_balancing": {"retries": 3, "try_duration": 60000000000, "try_interval": 1000000}}`,
			causeDialFailed, http.StatusBadGateway,
		},
		"not with the handshake's time": {
			`{"timeouts": {"handshake": "1s"}, "load_balancing": {"try_duration": "1100ms"}}`,
			causeDialFailed, http.StatusBadGateway,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, with(t, testbed.RefusedAddr(t), test.options))
			c := testbed.Dial(t, p.Addr)
			p.expectRefusal(test.cause, test.status, func() {
				expectAnswer(t, c, testbed.HandshakeRequest("/", "example.com"), test.status, notFromNext(nil))
			})
			expectOrdinary(t, c)
		})
	}
}

func TestFullUpstreamsAreNotAvailable(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{Upstreams: []*Upstream{{Dial: up.Addr, MaxTunnels: 1}}, LoadBalancing: withoutQueue()})
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")
	other := testbed.Dial(t, p.Addr)
	for range 3 {
		line := p.expectRefusal(causeNoUpstream, http.StatusServiceUnavailable, func() {
			other.Send(testbed.HandshakeRequest("/", "example.com"))
			resp := other.Response()
			after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
			if err != nil || after < 1 || after > 10 {
				t.Errorf("Retry-After is %q, want 1 to 10 seconds", resp.Header.Get("Retry-After"))
			}
			expectStatus(t, resp, http.StatusServiceUnavailable, notFromNext(nil))
			other.Body(resp)
		})
		if got, ok := line["upstream"]; ok {
			t.Errorf("the line names upstream %v, but none was tried", got)
		}
	}
	c.CloseHandshake(1000)
	c.Close()
	p.closedLine()
	other.Handshake("/")
}
