package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
)

// row is one line of the table. Less is better in all of them.
type row struct {
	name, unit string
}

// measurement is what gives the values of one or more rows.
type measurement struct {
	rows   []row
	secure bool
	run    func(context.Context, subject) ([]float64, error)
}

// allMeasurements lists every measurement in the order of the table's rows.
func allMeasurements(frames []int) []measurement {
	var list []measurement
	for _, secure := range []bool{false, true} {
		suffix := ", plain"
		if secure {
			suffix = ", TLS"
		}
		for _, m := range measurementsOf(frames) {
			m.secure = secure
			for i := range m.rows {
				m.rows[i].name += suffix
			}
			list = append(list, m)
		}
	}
	return list
}

// measurementsOf lists the measurements of one kind of port.
func measurementsOf(frames []int) []measurement {
	list := []measurement{
		{
			rows: []row{
				{"memory per idle tunnel", "KiB"},
				{"memory per further idle tunnel", "KiB"},
				{"descriptors per idle tunnel", "fds"},
			},
			run: measureIdle,
		},
		{rows: []row{{"CPU per echo of 64 B", "µs"}}, run: measureEcho},
		{rows: []row{{"CPU per connect, echo, close", "µs"}}, run: measureConnect},
	}
	for _, frame := range frames {
		list = append(list, bulkMeasurements(frame)...)
	}
	return append(list, measurement{
		rows: []row{{"p99 echo latency at 1,000 msg/s", "µs"}}, run: measureLatency,
	})
}

func bulkMeasurements(frame int) []measurement {
	size := formatSize(frame)
	return []measurement{
		{
			rows: []row{{"CPU per GiB to upstream, " + size + " frames", "s"}},
			run: func(ctx context.Context, s subject) ([]float64, error) {
				return measureUpload(ctx, s, frame)
			},
		},
		{
			rows: []row{{"CPU per GiB to client, " + size + " frames", "s"}},
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
