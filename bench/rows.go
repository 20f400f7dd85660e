package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// row is one line of the table. Less is better in all of them.
type row struct {
	name, unit string
}

// measurement is what gives the values of one or more rows.
type measurement struct {
	rows   []row
	secure bool
	// way is how tunnels travel; peers that don't know it have no values.
	way carriage
	// cpuBound tells that a profile shows what its values come from.
	cpuBound bool
	// floors tells that floors are measured, too.
	floors bool
	// leastRuns is how often a noisy measurement is repeated at least.
	leastRuns int
	// proxies is how many processes of a peer share the clients; 0 for one.
	proxies int
	// clients is set if the measurement mostly waits: the number of clients it
	// needs for one peer. As many peers as there can be clients for are measured
	// side by side, then.
	clients int
	run     func(context.Context, subject) ([]float64, error)
}

// repetitions returns how often the measurement is made in a run of that many.
func (m measurement) repetitions(runs int) int { return max(runs, m.leastRuns) }

// sideBySide returns how many peers are measured at once.
func (m measurement) sideBySide() int {
	if m.clients == 0 {
		return 1
	}
	return max(1, maxClients/m.clients)
}

// planned lists the measurements that the flags ask for.
func (o *options) planned() []measurement {
	if o.growth != nil {
		return []measurement{growthMeasurement(o.growth)}
	}
	if o.storm > 0 {
		return stormMeasurements(o.storm)
	}
	if o.beside != nil {
		return []measurement{besideMeasurement(o.beside)}
	}
	if o.fleet > 0 {
		tunnels := o.scale.tunnels
		return []measurement{fleetMeasurement(tunnels[len(tunnels)-1], o.fleet)}
	}
	if o.slow > 0 {
		return bothPorts(slowMeasurements(o.slow), slowMeasurements(o.slow))
	}
	return allMeasurements(o.scale)
}

// allMeasurements lists every measurement of a comparison, in the order of the
// table's rows.
func allMeasurements(s scale) []measurement {
	plain := measurementsOf(s, idleLoad{sizes: s.tunnels, watch: s.watch}, s.frames)
	plain = append(plain, measurement{
		rows: []row{{fmt.Sprintf("clients of %d refused while one upstream answers 503", refusable), ""}}, run: measureRefused,
	})
	secure := measurementsOf(s, idleLoad{sizes: s.tlsTunnels, longSettle: s.longSettle}, s.tlsFrames)
	secure = append(secure, shapeMeasurements()...)
	return append(bothPorts(plain, secure), streamMeasurements(s)...)
}

// bothPorts returns the measurements of both kinds of port.
func bothPorts(plain, secure []measurement) []measurement {
	for i := range secure {
		secure[i].secure = true
	}
	return append(named(plain, ", plain"), named(secure, ", TLS")...)
}

// named appends suffix to all names of rows.
func named(list []measurement, suffix string) []measurement {
	for _, m := range list {
		for i := range m.rows {
			m.rows[i].name += suffix
		}
	}
	return list
}

// measurementsOf lists the measurements of one kind of port.
func measurementsOf(s scale, idle idleLoad, frames []int) []measurement {
	list := idleMeasurements(idle)
	echo := echoMeasurement()
	echo.floors = true
	list = append(list, echo, measurement{
		rows: []row{{"CPU per connect, echo, close", "µs"}}, run: measureConnect, cpuBound: true, floors: true,
	}, allocatedMeasurement(), callsMeasurement())
	for _, frame := range frames {
		list = append(list, bulkMeasurements(frame)...)
	}
	return append(list, measurement{
		rows: []row{{"p99 echo latency at 1,000 msg/s", "µs"}}, run: measureLatency, leastRuns: s.latencyRuns,
	})
}

func echoMeasurement() measurement {
	return measurement{rows: []row{{"CPU per echo of 64 B", "µs"}}, run: measureEcho, cpuBound: true}
}

func idleMeasurements(idle idleLoad) []measurement {
	silent := measurement{
		rows: idle.rows(),
		run: func(ctx context.Context, s subject) ([]float64, error) {
			return measureIdle(ctx, s, idle)
		},
	}
	if idle.longSettle > 0 || idle.watch > 0 {
		silent.clients = idle.sizes[len(idle.sizes)-1]
	}
	name := fmt.Sprintf("memory per idle tunnel at %s after %s messages",
		formatCount(idle.sizes[0]), formatSize(largeSize))
	return []measurement{silent, {
		rows: []row{{name, "KiB"}},
		run: func(ctx context.Context, s subject) ([]float64, error) {
			return measureAfterMessages(ctx, s, idle.sizes[0])
		},
	}, {
		rows: []row{{"goroutines per idle tunnel", ""}},
		run: func(ctx context.Context, s subject) ([]float64, error) {
			return measureGoroutines(ctx, s, idle.sizes[0])
		},
	}}
}

func bulkMeasurements(frame int) []measurement {
	size := formatSize(frame)
	return []measurement{
		{
			rows:     []row{{"CPU per GiB to upstream, " + size + " frames", "s"}},
			cpuBound: true,
			run: func(ctx context.Context, s subject) ([]float64, error) {
				return measureUpload(ctx, s, frame)
			},
		},
		{
			rows:     []row{{"CPU per GiB to client, " + size + " frames", "s"}},
			cpuBound: true,
			run: func(ctx context.Context, s subject) ([]float64, error) {
				return measureDownload(ctx, s, frame)
			},
		},
	}
}

// selectMeasurements keeps those with a row that wanted matches.
func selectMeasurements(list []measurement, wanted *regexp.Regexp) []measurement {
	return slices.DeleteFunc(list, func(m measurement) bool {
		return !slices.ContainsFunc(m.rows, func(r row) bool { return wanted.MatchString(r.name) })
	})
}

// formatCount puts a comma behind the thousands.
func formatCount(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", formatCount(n/1000), n%1000)
}

func formatSize(bytes int) string {
	switch {
	case bytes >= 1<<20 && bytes%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", bytes>>20)
	case bytes >= 1<<10 && bytes%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", bytes>>10)
	default:
		return fmt.Sprintf("%d B", bytes)
	}
}
