package integration

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// BenchmarkScrape is what a scrape costs with 200 open tunnels, or 9,000 if LONG is set, and
// how long handshakes take while one scrape follows another. What is ours of a scrape is
// the difference to one without the handler.
func BenchmarkScrape(b *testing.B) {
	up := testbed.NewUpstream(b, testbed.Echo)
	c := startCaddy(b, site("respond ok"))
	b.Run("scrape without the handler", c.benchScrapes)
	c.reload(b, site(proxyTo(up.Addr)))
	b.Run("scrape without tunnels", c.benchScrapes)
	for range amount(9000, 200) {
		c.dial(b, false).Handshake("/")
	}
	b.Run("scrape with tunnels", c.benchScrapes)
	b.Run("handshake", c.benchHandshakes)
	// Another process has the same work to do, and no lock in common.
	other := startCaddy(b, site(proxyTo(up.Addr)))
	stop := other.scrapeOn(b)
	b.Run("handshake while another process is scraped", c.benchHandshakes)
	stop()
	stop = c.scrapeOn(b)
	b.Run("handshake while scraped", c.benchHandshakes)
	stop()
}

// scrapeOn scrapes all the time.
func (c *caddy) scrapeOn(tb testing.TB) (stop func()) {
	tb.Helper()
	over := make(chan struct{})
	wait := testbed.Go(tb, func(tb testing.TB) {
		for {
			select {
			case <-over:
				return
			case <-tb.Context().Done():
				return
			default:
				c.metrics(tb)
			}
		}
	})
	return func() {
		close(over)
		wait()
	}
}

func (c *caddy) benchScrapes(b *testing.B) {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	var ours int
	measure(b, func() {
		resp, err := client.Get("http://" + c.admin + "/metrics")
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			b.Fatal(err)
		}
		ours = strings.Count(string(text), "\n"+metricPrefix)
	})
	b.ReportMetric(float64(ours), "series")
}

func (c *caddy) benchHandshakes(b *testing.B) {
	var clients []*testbed.Client
	measure(b, func() {
		client := c.dial(b, false)
		client.Handshake("/")
		clients = append(clients, client)
		if len(clients) == 100 {
			for _, client := range clients {
				client.Close()
			}
			clients = nil
		}
	})
	for _, client := range clients {
		client.Close()
	}
}

// measure tells how long something takes half of the times, and 99 of 100 times.
func measure(b *testing.B, do func()) {
	b.Helper()
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		do()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	for name, part := range map[string]int{"ms-p50": 50, "ms-p99": 99} {
		b.ReportMetric(took[len(took)*part/100].Seconds()*1000, name)
	}
}
