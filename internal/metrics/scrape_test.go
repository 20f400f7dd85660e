package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// TestScrapeTakesNoLock scrapes while somebody holds every lock that a handshake or a
// tunnel may have to wait for.
func TestScrapeTakesNoLock(t *testing.T) {
	w := newWorld(t)
	for _, handler := range []string{"a", "b"} {
		w.Handler(handler).Opened("10.0.0.1:1", quick)
	}
	r := prometheus.NewPedanticRegistry()
	if err := w.Register(r); err != nil {
		t.Fatal(err)
	}
	w.Metrics.mu.Lock()
	defer w.Metrics.mu.Unlock()
	for _, h := range w.handlers.all {
		h.silence.mu.Lock()
		defer h.silence.mu.Unlock()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if families, err := r.Gather(); err != nil || len(families) == 0 {
			t.Errorf("%d metrics, %v", len(families), err)
		}
		if s := w.Snapshot(); len(s.Pairs) != 2 {
			t.Errorf("the snapshot has %d pairs", len(s.Pairs))
		}
	}()
	<-done // or the test does not end
}

// BenchmarkScrape is of all that a scrape costs, by how many upstreams how many handlers
// have. A histogram is as many series as it has buckets, and two more.
func BenchmarkScrape(b *testing.B) {
	for _, size := range []struct{ handlers, upstreams int }{{1, 10}, {1, 50}, {4, 50}, {1, maxPairs}, {20, maxPairs / 20}} {
		b.Run(fmt.Sprintf("handlers=%d/upstreams=%d", size.handlers, size.upstreams), func(b *testing.B) {
			w := newWorld(b)
			for i := range size.handlers {
				for j := range size.upstreams {
					w.Handler(fmt.Sprint("handler", i)).Opened(fmt.Sprintf("10.0.0.%d:1", j), quick)
				}
			}
			r := prometheus.NewPedanticRegistry()
			if err := w.Register(r); err != nil {
				b.Fatal(err)
			}
			h := promhttp.HandlerFor(r, promhttp.HandlerOpts{})
			scrape := func() string {
				answer := httptest.NewRecorder()
				h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				return answer.Body.String()
			}
			series := strings.Count(scrape(), "\ncaddy_")
			for b.Loop() {
				scrape()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(series), "µs/series")
			b.ReportMetric(float64(series), "series")
		})
	}
}
