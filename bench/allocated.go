package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// allocations are what a Go process has allocated since its start, whatever became of it.
type allocations struct{ bytes, pieces int64 }

func (a allocations) minus(b allocations) allocations {
	return allocations{bytes: a.bytes - b.bytes, pieces: a.pieces - b.pieces}
}

// allocatedMeasurement is about what a connect leaves for the garbage collector.
func allocatedMeasurement() measurement {
	return measurement{
		rows: []row{
			{"allocated per connect, echo, close", "kB"},
			{"allocations per connect, echo, close", ""},
		},
		run: measureAllocated, floors: true,
	}
}

// measureAllocated returns kB and pieces that each connect allocates, NaN for other peers
// than Caddy.
func measureAllocated(ctx context.Context, s subject) ([]float64, error) {
	if s.admin == "" {
		return []float64{math.NaN(), math.NaN()}, nil
	}
	// What is kept for the next one is there then.
	if err := s.connectMany(ctx, s.connects/10); err != nil {
		return nil, err
	}
	time.Sleep(teardown)
	var read [3]allocations
	for i := range read {
		if i == 2 {
			if err := s.connectMany(ctx, s.connects); err != nil {
				return nil, err
			}
			time.Sleep(teardown)
		}
		var err error
		if read[i], err = s.admin.allocations(ctx); err != nil {
			return nil, err
		}
	}
	each := perConnect(read, s.connects)
	return []float64{each[0] / 1000, each[1]}, nil
}

// perConnect returns bytes and pieces of each of n connects between the second and the
// third reading. What a reading takes itself is between the first and the second.
func perConnect(read [3]allocations, n int) [2]float64 {
	all := read[2].minus(read[1]).minus(read[1].minus(read[0]))
	return [2]float64{float64(all.bytes) / float64(n), float64(all.pieces) / float64(n)}
}

// connectMany makes tunnels one after the other, with an echo each.
func (s subject) connectMany(ctx context.Context, n int) error {
	m := newMessage(smallSize)
	for range n {
		if err := s.connectOnce(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// allocations returns what the process has allocated: runtime.MemStats, which count
// exactly, are below the profile.
func (a admin) allocations(ctx context.Context) (allocations, error) {
	body, err := a.get(ctx, "/debug/pprof/allocs?debug=1")
	if err != nil {
		return allocations{}, err
	}
	defer closeQuietly(body)
	return parseAllocations(body)
}

// parseAllocations parses the end of an allocation profile.
func parseAllocations(profile io.Reader) (allocations, error) {
	found := make(map[string]int64)
	for lines := bufio.NewReader(profile); ; {
		line, err := lines.ReadString('\n')
		name, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if ok && (name == "# TotalAlloc" || name == "# Mallocs") {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return allocations{}, fmt.Errorf("parsing the allocation profile: %w", err)
			}
			found[name] = n
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return allocations{}, fmt.Errorf("reading the allocation profile: %w", err)
		}
	}
	if len(found) != 2 {
		return allocations{}, fmt.Errorf("got only %v of the allocation profile", found)
	}
	return allocations{bytes: found["# TotalAlloc"], pieces: found["# Mallocs"]}, nil
}
