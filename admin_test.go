package websocketproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// testAdmin is the part of an admin endpoint that is ours.
type testAdmin struct {
	tb  testing.TB
	url string
}

func startAdmin(tb testing.TB) *testAdmin {
	tb.Helper()
	mux := http.NewServeMux()
	for _, route := range new(adminAPI).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if err == nil {
				return
			}
			var apiErr caddy.APIError
			if !errors.As(err, &apiErr) {
				tb.Errorf("%s %s: an error without a status: %v", r.Method, r.URL, err)
			}
			w.WriteHeader(apiErr.HTTPStatus)
			_ = json.NewEncoder(w).Encode(apiErr)
		})
	}
	server := httptest.NewServer(mux)
	tb.Cleanup(server.Close)
	return &testAdmin{tb, server.URL + "/websocket_proxy/"}
}

// do does a request and returns what is answered.
func (a *testAdmin) do(method, path, body string) (resp *http.Response, answer string) {
	a.tb.Helper()
	req, err := http.NewRequest(method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.tb.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err = client.Do(req)
	if err != nil {
		a.tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		a.tb.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(all)
}

// get does a request that has to succeed.
func get[T any](a *testAdmin, method, path, body string, status int) (answer T) {
	a.tb.Helper()
	resp, text := a.do(method, path, body)
	if resp.StatusCode != status {
		a.tb.Fatalf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, text)
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&answer); err != nil {
		a.tb.Fatalf("%s %s: %v in %s", method, path, err, text)
	}
	return answer
}

// tunnelList is the answer with a page of tunnels.
type tunnelList struct {
	Total   int            `json:"total"`
	Next    string         `json:"next"`
	Tunnels []admin.Tunnel `json:"tunnels"`
}

func (l tunnelList) ids() (ids []string) {
	for _, t := range l.Tunnels {
		ids = append(ids, t.ID)
	}
	return ids
}

// list returns the tunnels that a query gives.
func (a *testAdmin) list(query url.Values) tunnelList {
	a.tb.Helper()
	return get[tunnelList](a, "GET", "tunnels?"+query.Encode(), "", http.StatusOK)
}

// setState gives an upstream a state for the time of the test.
func (a *testAdmin) setState(address, state string) admin.StateAnswer {
	a.tb.Helper()
	body := fmt.Sprintf(`{"address": %q, "state": %q, "by": "me"}`, address, state)
	a.tb.Cleanup(func() {
		_ = process.operators.Set(a.tb.Context(), address, upstream.State{State: upstream.Ready})
	})
	return get[admin.StateAnswer](a, "POST", "upstreams/state", body, http.StatusOK)
}

// openTunnels opens tunnels to upstreams that echo. A client is answered a
// moment before its tunnel can be found.
func openTunnels(t *testing.T, p *testProxy, n int) []*testbed.Client {
	t.Helper()
	known := make(map[*tunnel.Tunnel]bool)
	isNew := func(held *tunnel.Tunnel) bool { return !known[held] }
	for _, held := range process.live.Collect(nil) {
		known[held] = true
	}
	clients := make([]*testbed.Client, n)
	for i := range clients {
		clients[i] = testbed.Dial(t, p.Addr)
		clients[i].Handshake("/")
		var found []*tunnel.Tunnel
		eventually(t, "there is a new tunnel", func() bool {
			found = process.live.Collect(isNew)
			return len(found) > 0
		})
		known[found[0]] = true
	}
	return clients
}

// namedProxies starts several proxies for the time of the test.
func namedProxies(t *testing.T, handlers ...*Handler) (proxies []*testProxy) {
	t.Helper()
	t.Cleanup(func() { expectNothingHeld(t) })
	for _, h := range handlers {
		load(t, h)
	}
	for _, h := range handlers {
		proxies = append(proxies, serve(t, h))
	}
	return proxies
}

func TestAdminShowsTunnels(t *testing.T) {
	api := startAdmin(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{Name: "chat", Upstreams: upstreams(up.Addr)})
	before := time.Now()
	c := openTunnels(t, p, 1)[0]
	c.Echo("hello")
	c.Echo("world!")

	var list tunnelList
	eventually(t, "all that the client has got is counted", func() bool {
		list = api.list(nil)
		if list.Total != 1 || list.Next != "" || len(list.Tunnels) != 1 {
			t.Fatalf("the list is %+v, want one tunnel", list)
		}
		return list.Tunnels[0].BytesOut == 2*2+11
	})
	got := list.Tunnels[0]
	if got.Opened.Before(before.Truncate(0)) || got.Opened.After(time.Now()) {
		t.Errorf("opened at %v, want after %v", got.Opened, before)
	}
	if got.Age < 0 || got.Age > time.Since(before).Seconds() || got.Idle < 0 || got.Idle > got.Age+1 {
		t.Errorf("age %v and idle %v after %v", got.Age, got.Idle, time.Since(before))
	}
	want := admin.Tunnel{
		ID: got.ID, ClientIP: "127.0.0.1", Protocol: "h1", Upstream: up.Addr, Handler: "chat",
		Opened: got.Opened, Age: got.Age, Idle: got.Idle,
		BytesIn: 2*6 + 11, BytesOut: 2*2 + 11, MessagesIn: 2, MessagesOut: 2,
		BytesRate: got.BytesRate, MessagesRate: got.MessagesRate,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the tunnel is %+v, want %+v", got, want)
	}

	shown := get[admin.Tunnel](api, "GET", "tunnels/"+got.ID, "", http.StatusOK)
	shown.Age, shown.Idle, shown.BytesRate, shown.MessagesRate = got.Age, got.Idle, got.BytesRate, got.MessagesRate
	if !reflect.DeepEqual(shown, want) {
		t.Errorf("by its id, the tunnel is %+v, want %+v", shown, want)
	}
	c.CloseHandshake(1000)
	c.Close()
	if line := p.closedLine(); line["tunnel"] != got.ID {
		t.Errorf("the log has id %v, the API %s", line["tunnel"], got.ID)
	}
}

func TestAdminFiltersAndPages(t *testing.T) {
	api := startAdmin(t)
	one, two := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	proxies := namedProxies(t, &Handler{Name: "first", Upstreams: upstreams(one.Addr)},
		&Handler{Name: "second", Upstreams: upstreams(one.Addr, two.Addr)})
	openTunnels(t, proxies[0], 3)
	openTunnels(t, proxies[1], 5)

	atOne := 3 + len(api.list(url.Values{"handler": {"second"}, "upstream": {one.Addr}}).Tunnels)
	for query, want := range map[string]int{
		"":                     8,
		"handler=first":        3,
		"handler=second":       5,
		"handler=third":        0,
		"upstream=" + one.Addr: atOne,
		"upstream=" + two.Addr: 8 - atOne,
		"upstream=" + two.Addr + "&handler=first": 0,
		"client=127.0.0.1":                        8,
		"client=127.0.0.0/8&handler=first":        3,
		"client=127.0.0.2":                        0,
		"client=::1":                              0,
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		list := api.list(values)
		if list.Total != want || len(list.Tunnels) != want {
			t.Errorf("%q gives %d tunnels of %d, want %d", query, len(list.Tunnels), list.Total, want)
		}
	}

	all := api.list(nil).ids()
	if !slices.IsSorted(all) {
		t.Errorf("the ids are in the order %v", all)
	}
	var paged []string
	query := url.Values{"limit": {"3"}}
	for page := range 4 {
		list := api.list(query)
		if list.Total != 8 || len(list.Tunnels) > 3 {
			t.Errorf("page %d has %d tunnels of %d, want up to 3 of 8", page, len(list.Tunnels), list.Total)
		}
		paged = append(paged, list.ids()...)
		if list.Next == "" {
			break
		}
		query.Set("after", list.Next)
	}
	if !slices.Equal(paged, all) {
		t.Errorf("the pages have %v, want %v", paged, all)
	}
	if got := api.list(url.Values{"limit": {"9223372036854775807"}, "after": {all[6]}}).ids(); !slices.Equal(got, all[7:]) {
		t.Errorf("after the seventh comes %v, want %v", got, all[7:])
	}
}

func TestAdminClosesOneTunnel(t *testing.T) {
	for name, want := range map[string]struct {
		query  string
		code   uint16
		reason string
	}{
		"by default":             {"", 1001, ""},
		"with code and reason":   {"?code=4321&reason=good+bye", 4321, "good bye"},
		"with a registered code": {"?code=1013", 1013, ""},
	} {
		t.Run(name, func(t *testing.T) {
			api := startAdmin(t)
			p, c, u := openTunnel(t, nil)
			eventually(t, "there is a tunnel", func() bool { return process.live.Count() == 1 })
			id := api.list(nil).ids()[0]
			closing := get[admin.CloseAnswer](api, "DELETE", "tunnels/"+id+want.query, "", http.StatusAccepted)
			if closing.Closing != 1 {
				t.Errorf("%d tunnels are being closed, want 1", closing.Closing)
			}
			if got := c.ExpectClose(want.code); got != want.reason {
				t.Errorf("the Close frame says %q, want %q", got, want.reason)
			}
			c.WriteFrame(testbed.NewClose(want.code, ""))
			u.ExpectClose(want.code)
			u.ExpectEOF()
			u.Close()
			c.ExpectEOF()
			c.Close()
			expectFields(t, p.closedLine(), map[string]any{
				"tunnel": id, "reason": "killed", "closed_by": "proxy", "close_code": want.code,
			})
			eventually(t, "the tunnel is not found any more", func() bool {
				resp, _ := api.do("DELETE", "tunnels/"+id, "")
				return resp.StatusCode == http.StatusNotFound
			})
		})
	}
}

func TestAdminClosesTunnelsThatMatch(t *testing.T) {
	api := startAdmin(t)
	up := testbed.NewUpstream(t, testbed.Echo)
	proxies := namedProxies(t, &Handler{Name: "stay", Upstreams: upstreams(up.Addr)},
		&Handler{Name: "leave", Upstreams: upstreams(up.Addr)})
	stay, leave := openTunnels(t, proxies[0], 2), openTunnels(t, proxies[1], 20)
	closing := get[admin.CloseAnswer](api, "POST", "tunnels/close",
		`{"handler": "leave", "client": "127.0.0.0/8", "code": 1013, "reason": "later", "period": 0.5}`,
		http.StatusAccepted)
	if want := (admin.CloseAnswer{Closing: 20, Period: 0.5}); closing != want {
		t.Errorf("the answer is %+v, want %+v", closing, want)
	}
	for _, c := range leave {
		if got := c.ExpectClose(1013); got != "later" {
			t.Errorf("the Close frame says %q", got)
		}
		c.Close()
	}
	for _, c := range stay {
		c.Echo("still here")
	}
	eventually(t, "two tunnels are left", func() bool { return api.list(nil).Total == 2 })
	closing = get[admin.CloseAnswer](api, "POST", "tunnels/close", `{"all": true}`, http.StatusAccepted)
	if want := (admin.CloseAnswer{Closing: 2, Period: 0.002}); closing != want {
		t.Errorf("the answer is %+v, want %+v", closing, want)
	}
	for _, c := range stay {
		c.ExpectClose(1001)
		c.Close()
	}
}

// TestHandshakesGoOnWhileAdminClosesTunnels opens tunnels while those that were
// there are being closed by one call, at a pace and all at once.
func TestHandshakesGoOnWhileAdminClosesTunnels(t *testing.T) {
	for _, period := range []int{0, 60} {
		t.Run(fmt.Sprintf("period=%d", period), func(t *testing.T) {
			const many = 200
			api := startAdmin(t)
			up := testbed.NewUpstream(t, testbed.Echo)
			p := proxyTo(t, up.Addr)
			old := openTunnels(t, p, many)
			closing := get[admin.CloseAnswer](api, "POST", "tunnels/close",
				fmt.Sprintf(`{"all": true, "period": %d}`, period), http.StatusAccepted)
			if want := (admin.CloseAnswer{Closing: many, Period: float64(period)}); closing != want {
				t.Fatalf("the answer is %+v, want %+v", closing, want)
			}
			fresh := openTunnels(t, p, 20)
			for _, c := range fresh {
				c.Echo("hello")
			}
			if period > 0 { // it is by far not over
				untold := process.live.Collect((*tunnel.Tunnel).IsOpen)
				if len(untold) <= len(fresh) {
					t.Errorf("%d tunnels are not being closed, %d of which are new", len(untold), len(fresh))
				}
			}
			for _, c := range old {
				if period == 0 {
					c.ExpectClose(1001)
				}
				c.Close()
			}
			eventually(t, "only the new tunnels are left", func() bool { return process.live.Count() == len(fresh) })
			for _, c := range fresh {
				c.Echo("still here")
			}
		})
	}
}

func TestAdminSetsStates(t *testing.T) {
	api := startAdmin(t)
	one, two := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, testbed.Echo)
	p := proxyTo(t, one.Addr, two.Addr)
	old := openTunnels(t, p, 4)
	if a, b := tunnelsOf(one.Addr), tunnelsOf(two.Addr); a != 2 || b != 2 {
		t.Fatalf("the upstreams have %d and %d tunnels, want 2 each", a, b)
	}

	before := time.Now()
	got := api.setState(one.Addr, "drain")
	if got.Address != one.Addr || got.State != "drain" || got.Tunnels != 2 || !got.Configured || got.By != "me" ||
		got.Since.Before(before.Truncate(0)) || !got.Expires.IsZero() || got.Stored != (got.Problem == "") {
		t.Errorf("the answer is %+v", got)
	}
	openTunnels(t, p, 3)
	if n := tunnelsOf(one.Addr); n != 2 {
		t.Errorf("an upstream in drain has %d tunnels, want the 2 that were there", n)
	}
	list := get[admin.UpstreamList](api, "GET", "upstreams", "", http.StatusOK).Upstreams
	want := []admin.Upstream{got.Upstream, {Address: two.Addr, State: "ready", Tunnels: 5, Configured: true, Health: "unchecked"}}
	slices.SortFunc(want, func(a, b admin.Upstream) int { return strings.Compare(a.Address, b.Address) })
	if !slices.Equal(list, want) {
		t.Errorf("the upstreams are %+v, want %+v", list, want)
	}

	if got := api.setState(one.Addr, "ready"); got.State != "ready" || got.Tunnels != 2 {
		t.Errorf("the answer is %+v", got)
	}
	openTunnels(t, p, 3)
	if n := tunnelsOf(one.Addr); n != 5 {
		t.Errorf("an upstream that is ready again has %d tunnels, want 5", n)
	}

	body := fmt.Sprintf(`{"address": %q, "state": "evict", "period": 0, "expires_in": 3600}`, two.Addr)
	evicting := get[admin.StateAnswer](api, "POST", "upstreams/state", body, http.StatusOK)
	t.Cleanup(func() { _ = process.operators.Set(t.Context(), two.Addr, upstream.State{State: upstream.Ready}) })
	if lasts := evicting.Expires.Sub(evicting.Since); evicting.State != "evict" || lasts != time.Hour {
		t.Errorf("the state is %s for %v, want evict for an hour", evicting.State, lasts)
	}
	if !strings.HasPrefix(evicting.By, "127.0.0.1:") {
		t.Errorf("the state is set by %q, want where the request came from", evicting.By)
	}
	expectEvicted(t, old, two)
}

// expectEvicted checks that those clients, and only those, that are at up are
// asked to go elsewhere.
func expectEvicted(t *testing.T, clients []*testbed.Client, up *testbed.Upstream) {
	t.Helper()
	eventually(t, "all at the upstream are asked", func() bool {
		return len(process.live.Collect(func(t *tunnel.Tunnel) bool { return t.Upstream == up.Addr && t.IsOpen() })) == 0
	})
	gone := 0
	for i, c := range clients {
		// They went to the two upstreams in turns, but to which one first?
		if _, err := c.Write(testbed.NewFrame(testbed.Text, "hello").Bytes(true)); err != nil {
			t.Fatal(err)
		}
		if f := c.ReadFrame(); f.Opcode == testbed.Close {
			if code, _ := f.CloseStatus(); code != 1012 {
				t.Errorf("client %d gets status %d, want 1012", i, code)
			}
			c.WriteFrame(testbed.NewClose(1012, ""))
			gone++
		}
		c.Close()
	}
	if gone != len(clients)/2 {
		t.Errorf("%d of %d clients were asked to leave, want half of them", gone, len(clients))
	}
	eventually(t, "the upstream is empty", func() bool { return tunnelsOf(up.Addr) == 0 })
}
