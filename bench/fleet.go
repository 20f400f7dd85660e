package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fleetAsks is how often a request is repeated, whose median counts. A reload is not: what
// has no tunnels any more after the first one would be faster.
const fleetAsks = 5

// fleetMeasurement is about how long an operator waits who has many tunnels and upstreams.
func fleetMeasurement(tunnels, upstreams int) measurement {
	with := fmt.Sprintf(" with %s tunnels and %s upstreams, plain", formatCount(tunnels), formatCount(upstreams))
	var rows []row
	for _, name := range []string{"drain", "list of upstreams", "list of all tunnels", "list of 100 tunnels", "reload"} {
		rows = append(rows, row{"time of a " + name + with, "ms"})
	}
	return measurement{
		rows: rows,
		run: func(ctx context.Context, s subject) ([]float64, error) {
			return measureFleet(ctx, s, tunnels)
		},
	}
}

// measureFleet returns the milliseconds that each request to the administration endpoint
// takes, NaN for those that the peer does not know.
func measureFleet(ctx context.Context, s subject, tunnels int) ([]float64, error) {
	crowd, err := newCrowd(s)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()
	if err := crowd.growTo(ctx, tunnels); err != nil {
		return nil, err
	}
	if err := sleep(ctx, time.Until(crowd.silent.Add(crowd.settle))); err != nil {
		return nil, err
	}
	values, err := s.operate(ctx, tunnels)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.admin.reload(ctx, filepath.Join(s.cmd.Dir, "Caddyfile")); err != nil {
		return nil, err
	}
	reload := milliseconds(time.Since(began))
	if values == nil { // and the tunnels have not survived the reload
		none := math.NaN()
		return []float64{none, none, none, none, reload}, nil
	}
	return append(values, reload), crowd.checkAlive()
}

// operate returns the milliseconds of all requests but a reload, nothing if the proxy has
// none of these upstreams.
func (s subject) operate(ctx context.Context, tunnels int) ([]float64, error) {
	drain, err := medianTime(func(i int) error { return s.admin.drain(ctx, s.upstreams[i%len(s.upstreams)]) })
	// The same binary answers for the stock handler, which has no upstreams of ours.
	if status, ok := errors.AsType[statusError](err); ok && strings.HasPrefix(string(status), "404 ") {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	values := []float64{drain}
	for _, path := range []string{"upstreams", fmt.Sprintf("tunnels?limit=%d", tunnels), "tunnels?limit=100"} {
		list, err := medianTime(func(int) error { return s.admin.read(ctx, "/websocket_proxy/"+path) })
		if err != nil {
			return nil, err
		}
		values = append(values, list)
	}
	return values, nil
}

// medianTime returns the median of the milliseconds that ask takes.
func medianTime(ask func(i int) error) (float64, error) {
	var times []float64
	for i := range fleetAsks {
		began := time.Now()
		if err := ask(i); err != nil {
			return 0, err
		}
		times = append(times, milliseconds(time.Since(began)))
	}
	return median(times), nil
}

// read gets all of an answer.
func (a admin) read(ctx context.Context, path string) error {
	body, err := a.get(ctx, path)
	if err != nil {
		return err
	}
	defer closeQuietly(body)
	_, err = io.Copy(io.Discard, body)
	return err
}

// drain takes an upstream out of service.
func (a admin) drain(ctx context.Context, address string) error {
	order, err := json.Marshal(map[string]string{"address": address, "state": "drain"})
	if err != nil {
		return err
	}
	return a.post(ctx, "/websocket_proxy/upstreams/state", "application/json", string(order))
}

// reload has the same configuration loaded again.
func (a admin) reload(ctx context.Context, file string) error {
	config, err := os.ReadFile(file) //nolint:gosec // in a folder of our own
	if err != nil {
		return err
	}
	return a.post(ctx, "/load", "text/caddyfile", string(config))
}

// post sends a request, and waits for all of the answer.
func (a admin) post(ctx context.Context, path, contentType, content string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+string(a)+path, strings.NewReader(content))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Cache-Control", "must-revalidate") // even if nothing has changed
	body, err := a.do(req)
	if err != nil {
		return err
	}
	defer closeQuietly(body)
	_, err = io.Copy(io.Discard, body)
	return err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
