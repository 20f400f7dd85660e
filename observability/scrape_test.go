package observability

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/metrics"
)

var label = regexp.MustCompile(`(\w+)="([^"]*)"`)

// shape is the name of a series with the names of its labels, and the bound of a bucket. job and instance are
// Prometheus's own.
func shape(series string) string {
	name, _, _ := strings.Cut(series, "{")
	name, _, _ = strings.Cut(name, " ")
	var labels []string
	for _, l := range label.FindAllStringSubmatch(series, -1) {
		switch l[1] {
		case "job", "instance":
		case "le":
			labels = append(labels, l[0])
		default:
			labels = append(labels, l[1])
		}
	}
	slices.Sort(labels)
	return name + "{" + strings.Join(labels, ",") + "}"
}

// scraped returns the shapes of what the collector shows for a handler with an upstream.
func scraped(tb testing.TB, openMetrics bool) map[string]bool {
	tb.Helper()
	m := metrics.New(metrics.Words{Causes: map[string][]string{"dial_failed": {"5xx"}}}, time.Now, func() uint64 { return 0 }, func() {})
	c := m.Start("chat", 1000, func() []metrics.Standing {
		return []metrics.Standing{{Upstream: backends[0], State: "drain", Since: time.Now()}}
	})
	defer c.Stop()
	m.Synced(nil)
	m.Handler("chat").Opened(backends[0], metrics.Course{Protocol: "h1"})
	registry := prometheus.NewPedanticRegistry()
	if err := m.Register(registry); err != nil {
		tb.Fatal(err)
	}
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	if openMetrics {
		request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	}
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}).ServeHTTP(answer, request)
	shapes := make(map[string]bool)
	for line := range strings.Lines(answer.Body.String()) {
		shapes[shape(strings.TrimSpace(line))] = true
	}
	return shapes
}

// TestDaysLookLikeScrapes compares the series of the days with what the collector shows in both formats: names, labels
// and the bounds of buckets.
func TestDaysLookLikeScrapes(t *testing.T) {
	for _, openMetrics := range []bool{false, true} {
		shown, compared := scraped(t, openMetrics), 0
		for name := range simulate(&ordinary[0], 60, openMetrics).samples {
			if !strings.HasPrefix(name, prefix) {
				continue // of the process
			}
			compared++
			if !shown[shape(name)] {
				t.Errorf("OpenMetrics %v: the days have %s, and a scrape does not", openMetrics, shape(name))
			}
		}
		if compared < 100 {
			t.Errorf("only %d series were compared", compared)
		}
	}
}
