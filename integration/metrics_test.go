package integration

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

const metricPrefix = "caddy_websocket_proxy_"

// metrics scrapes the admin endpoint, and returns our series as they are in the text,
// without the prefix.
func (c *caddy) metrics(tb testing.TB) map[string]float64 {
	tb.Helper()
	status, text, err := c.adminRequest(tb, http.MethodGet, "/metrics", "")
	if err != nil || status != http.StatusOK {
		tb.Fatalf("the scrape gives %d, %v: %.200s", status, err, text)
	}
	return parseMetrics(tb, text)
}

func parseMetrics(tb testing.TB, text string) map[string]float64 {
	tb.Helper()
	all := make(map[string]float64)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, metricPrefix) {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64)
		if err != nil {
			tb.Fatalf("the scrape has %q", line)
		}
		all[strings.TrimPrefix(line[:i], metricPrefix)] = value
	}
	return all
}

// waitMetrics waits until series have these values.
func (c *caddy) waitMetrics(tb testing.TB, want map[string]float64) {
	tb.Helper()
	var got map[string]float64
	var missing string
	defer func() {
		if tb.Failed() {
			tb.Logf("metrics: %v", got)
		}
	}()
	eventually(tb, "the metrics are as they should", func() bool {
		got = c.metrics(tb)
		for name, value := range want {
			if is, there := got[name]; !there || is != value {
				missing = fmt.Sprintf("%s is %v, want %v", name, is, value)
				return false
			}
		}
		missing = ""
		return true
	})
	if missing != "" {
		tb.Error(missing)
	}
}

// TestMetricsOutliveConfigurations has a tunnel see a reload, one that fails when all has
// been provisioned, and a configuration without the handler. It is counted once.
func TestMetricsOutliveConfigurations(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	to := fmt.Sprintf(`upstream="%s"`, up.Addr)
	config := func(more string) string {
		return site(proxyTo(up.Addr, "name chat", "evict_period off") + "\nmetrics /metrics\n" + more)
	}
	c := startCaddy(t, config(""))
	c.waitMetrics(t, map[string]float64{
		`tunnels_closed_total{handler="chat",reason="client_closed"}`: 0,
		`upstreams{handler="chat",status="usable"}`:                   1,
		`tunnels{handler="chat",` + to + `}`:                          0,
	})
	client := c.dial(t, false)
	client.Handshake("/")
	client.Echo("hello")
	open := map[string]float64{
		`tunnels_opened_total{handler="chat",protocol="h1"}`:        1,
		`tunnels{handler="chat",` + to + `}`:                        1,
		`messages_total{direction="in",handler="chat",` + to + `}`:  1,
		`messages_total{direction="out",handler="chat",` + to + `}`: 1,
		`bytes_total{direction="out",handler="chat",` + to + `}`:    7,
		`handshakes_in_progress{handler="chat"}`:                    0,
		`upstream_handshake_duration_seconds_count{` + to + `}`:     1,
		`tunnels_silent{handler="chat",over="1m"}`:                  0,
	}
	c.waitMetrics(t, open)
	c.reload(t, config("header X-Version 2"))
	c.waitMetrics(t, open)
	if _, text := c.get(t, "/metrics"); parseMetrics(t, text)[`tunnels{handler="chat",`+to+`}`] != 1 {
		t.Errorf("the handler shows %.300s", text)
	}
	taken := testbed.NewUpstream(t, testbed.Echo) // its port cannot be listened on
	if status, _, err := c.adminRequest(t, http.MethodPost, "/load", config("")+"http://"+taken.Addr+" {\n"+proxyTo("10.0.0.1:1", "name never")+"\n}\n"); err != nil || status == http.StatusOK {
		t.Fatalf("loading on a port that is taken: status %d, %v", status, err)
	}
	c.waitMetrics(t, open)
	c.reload(t, site("respond ok"))
	c.waitMetrics(t, open)
	c.waitMetrics(t, map[string]float64{`upstreams{handler="chat",status="removed"}`: 1, `upstreams{handler="chat",status="usable"}`: 0})
	client.Close()
	c.waitMetrics(t, map[string]float64{
		`tunnels_opened_total{handler="chat",protocol="h1"}`:       1,
		`tunnels{handler="chat",` + to + `}`:                       0,
		`upstreams{handler="chat",status="removed"}`:               0,
		`tunnel_duration_seconds_count{handler="chat"}`:            1,
		`buffered_bytes{handler="chat",peer="client"}`:             0,
		`messages_total{direction="in",handler="chat",` + to + `}`: 1,
	})
}

// TestScrapesMeetHostileNames has handlers of one name, and addresses that clients make,
// while configurations come and go, and at the exit.
func TestScrapesMeetHostileNames(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, testbed.Echo)
	config := func(version int) string {
		return site(fmt.Sprintf(`
			header X-Version %d
			handle /any/* {
				%s
			}
			%s
			%s
			%s`, version, proxyTo("{http.request.header.To}", `name "a\"b"`), "@one path /one\n"+matched("@one", proxyTo(up.Addr, "name alike")),
			"@two path /two\n"+matched("@two", proxyTo(up.Addr, "name alike")), matched("", proxyTo(up.Addr))))
	}
	c := startCaddy(t, config(0))
	for _, path := range []string{"/one", "/two", "/three"} {
		client := c.dial(t, false)
		client.Handshake(path)
		client.Close()
	}
	for _, to := range []string{"127.0.0.1:1", "\xff\xfe:80", strings.Repeat("é", 300) + ":80", up.Addr, "a\u202eb:9"} {
		client := c.dial(t, false)
		client.Send(testbed.HandshakeRequest("/any/", c.http, "To: "+to))
		client.Response()
		client.Close()
	}
	var scrapes sync.WaitGroup
	stop := make(chan struct{})
	scrapes.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// While the endpoint is replaced, there may be no answer.
			status, text, err := c.adminRequest(t, http.MethodGet, "/metrics", "")
			if err == nil && status != http.StatusOK {
				t.Errorf("the scrape gives %d: %.300s", status, text)
			}
		}
	})
	for version := range 4 {
		c.reload(t, config(version+1))
	}
	c.waitMetrics(t, map[string]float64{
		`tunnels_opened_total{handler="alike",protocol="h1"}`:          2,
		`tunnels_opened_total{handler="default",protocol="h1"}`:        1,
		fmt.Sprintf(`tunnels{handler="alike",upstream="%s"}`, up.Addr): 0,
	})
	for name := range c.metrics(t) {
		if strings.Contains(name, up.Addr) && strings.Contains(name, `handler="a\"b"`) {
			t.Errorf("an address that a client has made is in %s", name)
		}
	}
	c.stop(t)
	close(stop)
	scrapes.Wait()
}

// matched is a directive with a matcher.
func matched(matcher, directive string) string {
	return strings.Replace(directive, "websocket_proxy ", "websocket_proxy "+matcher+" ", 1)
}
