package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// listedUpstream and listedTunnel are what the admin API says of one.
type (
	listedUpstream struct {
		Address, State, By string
		Source             string
		Tunnels, Queued    int
		Configured         bool
	}
	listedTunnel struct {
		ID, Upstream, Handler string
		ClientIP              string `json:"client_ip"`
	}
)

// api does a request to the admin API and decodes what is answered.
func (c *caddy) api(tb testing.TB, method, path, body string, want int, answer any) {
	tb.Helper()
	status, text, err := c.adminRequest(tb, method, "/websocket_proxy/"+path, body)
	if err != nil || status != want {
		tb.Fatalf("%s %s: status %d, %v, want %d: %s", method, path, status, err, want, text)
	}
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		tb.Fatalf("%s %s: %v in %s", method, path, err, text)
	}
}

func (c *caddy) listedUpstreams(tb testing.TB) map[string]listedUpstream {
	tb.Helper()
	var list struct{ Upstreams []listedUpstream }
	c.api(tb, "GET", "upstreams", "", http.StatusOK, &list)
	byAddress := make(map[string]listedUpstream)
	for _, u := range list.Upstreams {
		byAddress[u.Address] = u
	}
	return byAddress
}

// isAvoided reports whether handshakes or probes have found an upstream failing.
func (c *caddy) isAvoided(tb testing.TB, address string) bool {
	tb.Helper()
	var list struct {
		Upstreams []struct {
			Address, Health string
			Failing         bool
		}
	}
	c.api(tb, "GET", "upstreams", "", http.StatusOK, &list)
	for _, u := range list.Upstreams {
		if u.Address == address {
			return u.Failing || u.Health == "down"
		}
	}
	tb.Fatalf("no upstream %s is listed", address)
	return false
}

func (c *caddy) listedTunnels(tb testing.TB, query string) []listedTunnel {
	tb.Helper()
	var list struct {
		Total   int
		Tunnels []listedTunnel
	}
	c.api(tb, "GET", "tunnels?"+query, "", http.StatusOK, &list)
	if list.Total != len(list.Tunnels) {
		tb.Errorf("%q: a total of %d, but %d are listed", query, list.Total, len(list.Tunnels))
	}
	return list.Tunnels
}

// openListed opens tunnels, and returns their ids.
func (c *caddy) openListed(tb testing.TB, n int) (clients []*testbed.Client, ids []string) {
	tb.Helper()
	for range n {
		client := c.dial(tb, false)
		id := tunnelID(client.Handshake("/"))
		// The client is answered a moment before its tunnel can be found.
		eventually(tb, "the tunnel is listed", func() bool {
			status, _, err := c.adminRequest(tb, http.MethodGet, "/websocket_proxy/tunnels/"+id, "")
			return err == nil && status == http.StatusOK
		})
		ids, clients = append(ids, id), append(clients, client)
	}
	return clients, ids
}

// leave has clients answer a Close frame with a status, and close.
func leave(tb testing.TB, code uint16, clients ...*testbed.Client) (wait func()) {
	tb.Helper()
	var waits []func()
	for _, client := range clients {
		waits = append(waits, testbed.Go(tb, func(testing.TB) {
			client.ExpectClose(code)
			client.WriteFrame(testbed.NewClose(code, ""))
			client.ExpectEOF()
			client.Close()
		}))
	}
	return func() {
		for _, wait := range waits {
			wait()
		}
	}
}

// TestAdminAPI operates tunnels through the admin endpoint, across a reload.
func TestAdminAPI(t *testing.T) {
	t.Parallel()
	one, two := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	config := func(body string) string {
		return site(body + "\n" + proxyTo(one.Addr+" "+two.Addr, "name chat"))
	}
	c := startCaddy(t, config(""))
	clients, ids := c.openListed(t, 6)
	c.reload(t, config("respond /other ok"))

	all := c.listedUpstreams(t)
	for _, up := range []*testbed.Upstream{one, two} {
		want := listedUpstream{Address: up.Addr, State: "ready", Tunnels: 3, Configured: true}
		if all[up.Addr] != want {
			t.Errorf("the upstream is %+v, want %+v", all[up.Addr], want)
		}
	}
	for query, want := range map[string]int{
		"": 6, "handler=chat": 6, "handler=other": 0, "upstream=" + one.Addr: 3, "client=127.0.0.0/8": 6, "client=::1": 0,
	} {
		if got := c.listedTunnels(t, query); len(got) != want {
			t.Errorf("%q gives %d tunnels, want %d", query, len(got), want)
		}
	}

	var tunnel listedTunnel
	c.api(t, "GET", "tunnels/"+ids[0], "", http.StatusOK, &tunnel)
	if tunnel.ID != ids[0] || tunnel.Handler != "chat" || tunnel.ClientIP != "127.0.0.1" {
		t.Errorf("the tunnel is %+v", tunnel)
	}
	var closing struct{ Closing int }
	c.api(t, "DELETE", "tunnels/"+ids[0]+"?code=4000&reason=enough", "", http.StatusAccepted, &closing)
	if got := clients[0].ExpectClose(4000); got != "enough" {
		t.Errorf("the Close frame says %q", got)
	}
	clients[0].WriteFrame(testbed.NewClose(4000, ""))
	clients[0].ExpectEOF()
	clients[0].Close()
	line := c.log.waitOne(t, message("tunnel closed", "tunnel", ids[0]))
	if line.str("reason") != "killed" || line.str("closed_by") != "proxy" || line.num("close_code") != 4000 {
		t.Errorf("the log has %v", line)
	}

	// A state outlives a reload, too.
	var state listedUpstream
	c.api(t, "POST", "upstreams/state", fmt.Sprintf(`{"address":%q,"state":"drain","by":"me"}`, one.Addr),
		http.StatusOK, &state)
	c.reload(t, config("respond /other no"))
	if got := c.listedUpstreams(t)[one.Addr]; got.State != "drain" || got.By != "me" {
		t.Errorf("after a reload the upstream is %+v, want it in drain", got)
	}
	before := len(c.listedTunnels(t, "upstream="+one.Addr))
	more, _ := c.openListed(t, 4)
	if got := len(c.listedTunnels(t, "upstream="+one.Addr)); got != before {
		t.Errorf("an upstream in drain has %d tunnels, want the %d that were there", got, before)
	}

	wait := leave(t, 1001, append(clients[1:], more...)...)
	c.api(t, "POST", "tunnels/close", `{"all": true, "period": 0.2}`, http.StatusAccepted, &closing)
	if closing.Closing != 9 {
		t.Errorf("%d tunnels are being closed, want 9", closing.Closing)
	}
	wait()
	eventually(t, "no tunnel is left", func() bool { return len(c.listedTunnels(t, "")) == 0 })
}

// TestAdminAPIIsGuarded checks what Caddy does around our handlers.
func TestAdminAPIIsGuarded(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, site(proxyTo(up.Addr)))
	_, ids := c.openListed(t, 1)
	for _, bad := range []struct {
		method, path string
		header       [2]string
		status       int
		allow, cause string
	}{
		{"POST", "upstreams", [2]string{}, 405, "GET", "the method is GET here"},
		{"PUT", "tunnels/" + ids[0], [2]string{}, 405, "DELETE, GET", "DELETE or GET"},
		{"DELETE", "tunnels/close", [2]string{}, 405, "POST", "not DELETE"},
		{"GET", "tunnels/none", [2]string{}, 404, "", `no tunnel "none"`},
		{"GET", "other", [2]string{}, 404, "", "there is /websocket_proxy/upstreams"},
		{"DELETE", "tunnels/" + ids[0] + "?code=1004", [2]string{}, 400, "", "1004 is not allowed"},
		{"DELETE", "tunnels/" + ids[0], [2]string{"Origin", "https://evil.test"}, 403, "", "origin"},
		{"DELETE", "tunnels/" + ids[0], [2]string{"Host", "evil.test"}, 403, "", "host"},
		{"DELETE", "tunnels/" + ids[0], [2]string{"Sec-Fetch-Mode", "no-cors"}, 400, "", "same-origin"},
	} {
		req, err := http.NewRequestWithContext(timeLimit(t), bad.method, "http://"+c.admin+"/websocket_proxy/"+bad.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bad.header[0] == "Host" {
			req.Host = bad.header[1]
		} else if bad.header[0] != "" {
			req.Header.Set(bad.header[0], bad.header[1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", bad.method, bad.path, err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var answer struct{ Error string }
		if err != nil || json.Unmarshal(text, &answer) != nil {
			t.Errorf("%s %s: %v, the answer is %s", bad.method, bad.path, err, text)
		}
		if resp.StatusCode != bad.status || resp.Header.Get("Allow") != bad.allow || !strings.Contains(answer.Error, bad.cause) {
			t.Errorf("%s %s: %d, Allow %q, %q; want %d, %q, %q", bad.method, bad.path,
				resp.StatusCode, resp.Header.Get("Allow"), answer.Error, bad.status, bad.allow, bad.cause)
		}
	}
	if got := c.listedTunnels(t, ""); len(got) != 1 || got[0].ID != ids[0] {
		t.Errorf("the tunnels are %+v, want the one that was there", got)
	}

	// What a client sends must not become a label of Caddy's metrics.
	_, metrics, err := c.adminRequest(t, http.MethodGet, "/metrics", "")
	if err != nil || !strings.Contains(metrics, `path="/websocket_proxy/tunnels/{id}"`) {
		t.Errorf("%v, no path with {id} in the metrics:\n%s", err, metrics)
	}
	for line := range strings.Lines(metrics) {
		for _, sent := range []string{ids[0], "none", "websocket_proxy/other"} {
			if strings.HasPrefix(line, "caddy_admin_") && strings.Contains(line, sent) {
				t.Errorf("the metrics contain %q: %s", sent, line)
			}
		}
	}
}
