package integration

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"testing"
)

func newSessionClient(tb testing.TB, c *caddy) *sessionClient {
	tb.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &sessionClient{c: c, jar: jar}
}

// cookie is where the client belongs.
func (v *sessionClient) cookie() string {
	cookies := v.jar.Cookies(&url.URL{Scheme: "http", Host: v.c.http, Path: "/"})
	if len(cookies) != 1 {
		return fmt.Sprint(cookies)
	}
	return cookies[0].Value
}

// stay begins a session, and another one whenever its WebSocket is closed by the proxy,
// until the context ends.
func (v *sessionClient) stay(ctx context.Context, http1 *http.Client) error {
	for ctx.Err() == nil {
		v.home = ""
		if err := v.begin(http1); err != nil {
			return err
		}
		release := context.AfterFunc(ctx, func() { _ = v.conn.Close() })
		_, _, err := v.conn.ReadMessage()
		release()
		_ = v.conn.Close()
		if ctx.Err() == nil && gorillaEnd(v.conn, err).Code != 1012 {
			return fmt.Errorf("the WebSocket at %s was closed otherwise than with 1012: %w", v.home, err)
		}
	}
	return nil
}

// TestRebalancingMovesSessionsOfACookie: all clients have the cookie of one upstream when
// another one joins. Who is closed gets the cookie of that one, and sessions that are under
// way stay where they are known.
func TestRebalancingMovesSessionsOfACookie(t *testing.T) {
	t.Parallel()
	const clients, pollers = 40, 5
	one, two := startSessionServer(t), startSessionServer(t)
	config := func(addrs ...string) string {
		return site(proxyTo(strings.Join(addrs, " "), "name app", "lb_policy cookie",
			"sticky_session query !sid", "rebalance 50% 1s") +
			"\nreverse_proxy {\ndynamic websocket_proxy app\nlb_policy websocket_proxy app\nlb_retries 2\n}")
	}
	c := startCaddy(t, config(one.addr))
	http1 := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: timeout}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	end := func() {
		cancel()
		running.Wait()
	}
	defer end()
	all := make([]*sessionClient, clients)
	for i := range all {
		all[i] = newSessionClient(t, c)
		running.Go(func() {
			if err := all[i].stay(ctx, http1); err != nil {
				t.Errorf("a session is lost: %v", err)
			}
		})
	}
	// Those who poll have sessions without a WebSocket.
	underWay := make([]*sessionClient, pollers)
	paths := make([]string, pollers)
	for i := range underWay {
		v := newSessionClient(t, c)
		session, err := v.request(http1, http.MethodGet, "/socket.io/?EIO=4&transport=polling")
		if err != nil {
			t.Fatal(err)
		}
		underWay[i], paths[i] = v, "/socket.io/?EIO=4&sid="+session
	}
	running.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := underWay[i%pollers].request(http1, http.MethodPost, paths[i%pollers]); err != nil {
				t.Errorf("a session under way: %v", err)
				return
			}
		}
	})
	eventually(t, "all clients are at the first upstream", func() bool { return one.tunnels() == clients })

	c.reload(t, config(one.addr, two.addr))
	eventually(t, "about half of the clients are at the second", func() bool {
		there := two.tunnels()
		return !c.isRebalancing() && one.tunnels()+there == clients && max(there, clients-there)*10 <= clients/2*11
	})
	end()
	cookies := make(map[string]string)
	for _, v := range append(all, underWay...) {
		if was := cookies[v.home]; was != "" && was != v.cookie() {
			t.Errorf("clients at %s have the cookies %s and %s", v.home, was, v.cookie())
		}
		cookies[v.home] = v.cookie()
	}
	if len(cookies) != 2 || cookies[one.addr] == cookies[two.addr] {
		t.Errorf("upstreams have the cookies %v, want one for each", cookies)
	}
	// Nobody is owed a move any more, so a new session is where its cookie says.
	for i, v := range underWay {
		if err := v.upgrade(strings.Replace(paths[i], "&sid", "&transport=websocket&sid", 1)); err != nil {
			t.Errorf("the WebSocket of a session under way: %v", err)
			continue
		}
		_ = v.conn.Close()
		if err := v.begin(http1); err != nil {
			t.Errorf("the next session is not where the cookie says: %v", err)
			continue
		}
		_ = v.conn.Close()
	}
	if lost := one.unknown.Load() + two.unknown.Load(); lost > 0 {
		t.Errorf("%d requests came to an upstream that does not know their session", lost)
	}
}
