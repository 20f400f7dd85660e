package metrics

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// series is one time series, or a histogram. It implements prometheus.Metric. Nothing that
// a scrape can meet makes it fail.
type series struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	write  func(*dto.Metric)
	wanted func() bool // nil: always
}

// Desc implements prometheus.Metric.
func (s *series) Desc() *prometheus.Desc { return s.desc }

// Write implements prometheus.Metric.
func (s *series) Write(to *dto.Metric) error {
	to.Label = s.labels
	s.write(to)
	return nil
}

// onlyIf has the series shown only if that is wanted.
func (s *series) onlyIf(wanted func() bool) *series {
	s.wanted = wanted
	return s
}

func newSeries(d *prometheus.Desc, values []string, write func(*dto.Metric)) *series {
	return &series{desc: d, labels: prometheus.MakeLabelPairs(d, values), write: write}
}

func counterOf(d *prometheus.Desc, count *atomic.Uint64, values ...string) *series {
	return counterBy(d, count.Load, values...)
}

func counterBy(d *prometheus.Desc, read func() uint64, values ...string) *series {
	return newSeries(d, values, func(to *dto.Metric) {
		value := float64(read())
		to.Counter = &dto.Counter{Value: &value}
	})
}

func gaugeOf(d *prometheus.Desc, read func() float64, values ...string) *series {
	return newSeries(d, values, func(to *dto.Metric) {
		value := read()
		to.Gauge = &dto.Gauge{Value: &value}
	})
}

// levelOf is a gauge that is never shown below zero: what it counts may come and go
// while it is read.
func levelOf(d *prometheus.Desc, level *atomic.Int64, values ...string) *series {
	return gaugeOf(d, func() float64 { return float64(max(0, level.Load())) }, values...)
}

// floatOf shows a number that is there while it is not 0.
func floatOf(d *prometheus.Desc, bits *atomic.Uint64, values ...string) *series {
	return gaugeOf(d, func() float64 { return math.Float64frombits(bits.Load()) }, values...).
		onlyIf(func() bool { return bits.Load() != 0 })
}

// histogram counts durations. It is a classic one: a Prometheus that scrapes native ones
// would drop the buckets.
type histogram struct {
	bounds []time.Duration
	counts []atomic.Uint64 // one more than bounds, for what is above
	micros atomic.Int64    // the sum
}

func newHistogram(bounds []time.Duration) *histogram {
	return &histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

func (h *histogram) observe(d time.Duration) {
	i := 0
	for i < len(h.bounds) && d > h.bounds[i] {
		i++
	}
	h.micros.Add(d.Microseconds())
	h.counts[i].Add(1)
}

// Histogram is a copy of one: for each bucket the upper bound and how many durations were
// in it. What was above all bounds is in the last count, which has no bound.
type Histogram struct {
	Bounds []time.Duration
	Counts []uint64
	Sum    time.Duration
}

func (h *histogram) snapshot() Histogram {
	s := Histogram{Bounds: h.bounds, Counts: make([]uint64, len(h.counts)), Sum: time.Duration(h.micros.Load()) * time.Microsecond}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

// histogramOf is made for scrapes of many: it allocates once for all buckets.
func histogramOf(d *prometheus.Desc, h *histogram, values ...string) *series {
	upper := make([]float64, len(h.bounds))
	for i, bound := range h.bounds {
		upper[i] = seconds(bound)
	}
	return newSeries(d, values, func(to *dto.Metric) {
		s := h.snapshot()
		sum, total := seconds(s.Sum), uint64(0)
		all, buckets := make([]dto.Bucket, len(upper)), make([]*dto.Bucket, len(upper))
		for i := range all {
			total += s.Counts[i]
			s.Counts[i] = total
			all[i].CumulativeCount, all[i].UpperBound = &s.Counts[i], &upper[i]
			buckets[i] = &all[i]
		}
		total += s.Counts[len(upper)]
		to.Histogram = &dto.Histogram{SampleCount: &total, SampleSum: &sum, Bucket: buckets}
	})
}

func seconds(d time.Duration) float64 { return float64(d) / float64(time.Second) }

// The bounds of histograms.
var (
	handshakeBounds = []time.Duration{
		5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
		250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
		10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute,
	}
	tunnelBounds = []time.Duration{
		time.Second, 10 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute,
		time.Hour, 4 * time.Hour, 12 * time.Hour, 24 * time.Hour, 72 * time.Hour,
	}
)
