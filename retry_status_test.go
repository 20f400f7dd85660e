package websocketproxy

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// answering is an upstream that refuses handshakes with a body.
func answering(t *testing.T, status, body string) *testbed.Upstream {
	t.Helper()
	return testbed.NewUpstream(t, testbed.Respond("HTTP/1.1 "+status+"\r\nX-Status: "+status[:3]+
		"\r\nTransfer-Encoding: chunked\r\n\r\n"+"5\r\n"+body+"\r\n0\r\n\r\n"))
}

// inOrder is a proxy for upstreams that are asked one after another.
func inOrder(t *testing.T, lb string, ups ...*testbed.Upstream) *testProxy {
	t.Helper()
	h := with(t, ups[0].Addr, `{"load_balancing": {"selection_policy": {"policy": "first"}, `+lb+`}}`)
	for _, up := range ups[1:] {
		h.Upstreams = append(h.Upstreams, &Upstream{Dial: up.Addr})
	}
	return newProxy(t, h)
}

func TestAnswersThatAreRetried(t *testing.T) {
	echo := func(t *testing.T) *testbed.Upstream { t.Helper(); return testbed.NewUpstream(t, testbed.Echo) }
	status := func(status, body string) func(*testing.T) *testbed.Upstream {
		return func(t *testing.T) *testbed.Upstream { t.Helper(); return answering(t, status, body) }
	}
	closes := func(t *testing.T) *testbed.Upstream {
		t.Helper()
		return testbed.NewUpstream(t, testbed.CloseAfterHead)
	}
	garbage := func(t *testing.T) *testbed.Upstream {
		t.Helper()
		return testbed.NewUpstream(t, testbed.Respond("garbage\r\n\r\n"))
	}
	busy, broken := status("503 Service Unavailable", "first"), status("500 Internal Server Error", "other")
	type upstreams = []func(*testing.T) *testbed.Upstream
	for name, test := range map[string]struct {
		options string
		ups     upstreams
		status  int
		body    string
		asked   []int
	}{
		"not by default":            {`"retries": 2`, upstreams{busy, echo}, 503, "first", []int{1, 0}},
		"a status":                  {`"retry_status": [503]`, upstreams{busy, echo}, 101, "", []int{1, 1}},
		"a class":                   {`"retry_status": [5]`, upstreams{broken, busy, echo}, 101, "", []int{1, 1, 1}},
		"another status":            {`"retry_status": [503, 404]`, upstreams{broken, echo}, 500, "other", []int{1, 0}},
		"up to the retries":         {`"retry_status": [503], "retries": 1`, upstreams{busy, busy, echo}, 503, "first", []int{1, 1, 0}},
		"without retries":           {`"retry_status": [503], "retries": 0`, upstreams{busy, echo}, 503, "first", []int{1, 0}},
		"the last answer":           {`"retry_status": [5]`, upstreams{busy, broken}, 500, "other", []int{1, 1}},
		"the last one that answers": {`"retry_status": [5]`, upstreams{broken, busy, closes}, 503, "first", []int{1, 1, 1}},
		"one before garbage":        {`"retry_status": [5]`, upstreams{busy, garbage}, 503, "first", []int{1, 1}},
		"rounds": {
			`"retry_status": [5], "retries": 5, "try_duration": "1m", "try_interval": "1ms"`,
			upstreams{broken, busy},
			503, "first",
			[]int{3, 3},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var ups []*testbed.Upstream
			for _, start := range test.ups {
				ups = append(ups, start(t))
			}
			p := inOrder(t, test.options, ups...)
			c := testbed.Dial(t, p.Addr)
			c.Send(testbed.HandshakeRequest("/", c.Host))
			resp := c.Response()
			if resp.StatusCode != test.status {
				t.Fatalf("the status is %d, want %d", resp.StatusCode, test.status)
			}
			if test.status != http.StatusSwitchingProtocols {
				if body := c.Body(resp); body != test.body {
					t.Errorf("the body is %q, want %q", body, test.body)
				}
				expectFields(t, p.line("handshake refused"), map[string]any{"cause": "upstream_refused", "status": int64(test.status)})
			}
			c.Close()
			for i, up := range ups {
				if n := up.Accepted(); n != test.asked[i] {
					t.Errorf("upstream %d was asked %d times, want %d", i, n, test.asked[i])
				}
				up.WaitOpen(t, 0)
				eventually(t, "no tunnel is counted", func() bool { return tunnelsOf(up.Addr) == 0 })
			}
			if failing := failingAddresses(); len(failing) > 0 {
				t.Errorf("failing are %v, want none", failing)
			}
		})
	}
}

// An answer that is kept takes no place: others may need it meanwhile.
func TestKeptAnswerTakesNoPlace(t *testing.T) {
	busy, up := answering(t, "503 Service Unavailable", "first"), testbed.NewUpstream(t, nil)
	p := inOrder(t, `"retry_status": [503]`, busy, up)
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", c.Host))
	u := up.Next(t)
	if n := tunnelsOf(busy.Addr); n != 0 {
		t.Errorf("%d tunnels are counted at the one that has answered, want 0", n)
	}
	u.AcceptHandshake()
	expectStatus(t, c.Response(), http.StatusSwitchingProtocols, map[string]string{"X-Status": ""})
	c.Tolerate()
	c.Close()
	u.Tolerate()
	u.Drain()
}

func TestClientThatGoesWhenAnAnswerIsKept(t *testing.T) {
	busy, up := answering(t, "503 Service Unavailable", "first"), testbed.NewUpstream(t, nil)
	p := inOrder(t, `"retry_status": [503]`, busy, up)
	c := testbed.Dial(t, p.Addr)
	c.Send(testbed.HandshakeRequest("/", c.Host))
	u := up.Next(t)
	p.expectRefusal(causeClientGone, statusClientClosed, func() {
		c.Close()
		u.Drain()
	})
	busy.WaitOpen(t, 0)
}

// The body of the last answer may be larger than what buffers hold.
func TestLargeAnswerThatWasKept(t *testing.T) {
	body := strings.Repeat("x", 4<<20)
	busy := testbed.NewUpstream(t, testbed.Respond("HTTP/1.1 503 Service Unavailable\r\n\r\n"+body))
	p := inOrder(t, `"retry_status": [503]`, busy, testbed.NewUpstream(t, testbed.CloseAfterHead))
	resp, err := http.DefaultClient.Do(upgradeRequest(t, "http://"+p.Addr))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != body || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %d bytes with status %d: %v; want %d", len(got), resp.StatusCode, err, len(body))
	}
}

// upgradeRequest is a handshake for net/http's client.
func upgradeRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	return r
}

func TestWrongRetryStatus(t *testing.T) {
	for config, want := range map[string]string{
		`[101]`:    "load_balancing.retry_status[0]: 101 is no status of an error",
		`[503, 3]`: "load_balancing.retry_status[1]: 3 is no status",
		`[600]`:    "load_balancing.retry_status[0]: 600 is",
		`[-1]`:     "load_balancing.retry_status[0]: -1 is",
	} {
		err := provisionJSON(t, `{"upstreams": [{"dial": "a:1"}], "load_balancing": {"retry_status": `+config+`}}`)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s the error is %v, want %s", config, err, want)
		}
	}
}
