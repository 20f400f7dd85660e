package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"time"
)

// measurementLimit bounds one measurement, starting the proxy included.
const measurementLimit = 5 * time.Minute

// runner holds what a whole run shares.
type runner struct {
	options
	workshop
	backends     *backends
	peers        []peer
	missing      []string
	measurements []measurement
	results      results
	notes        []string // what the table can't tell
	began        time.Time
}

func newRunner(o options, dir string) (*runner, error) {
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	r := &runner{
		options:      o,
		measurements: selectMeasurements(o.planned(), o.rowFilter),
		results:      make(results),
		began:        time.Now(),
	}
	all := allPeers(o)
	if o.storm > 0 {
		all = stormPeers(o)
	}
	wanted := slices.DeleteFunc(all, func(p peer) bool {
		return p.name != ourName &&
			(o.growth != nil || o.fleet > 0 && !p.hasAdmin || !o.peerFilter.MatchString(p.name))
	})
	r.peers, r.missing = installed(wanted)
	switch {
	case len(r.measurements) == 0:
		return nil, fmt.Errorf("no row matches %q", o.rowFilter)
	case len(r.peers) == 0 || r.peers[0].name != ourName:
		return nil, fmt.Errorf("caddy binary %q not found", o.caddy)
	}
	if r.backends, err = startBackends(max(backendCount, o.fleet)); err != nil {
		return nil, err
	}
	r.workshop = workshop{dir: dir, cert: cert, upstreams: r.backends.addrs}
	return r, nil
}

// runAll repeats all measurements. Within a repetition the peers take turns at
// each measurement, and another one begins each time, so that a machine that
// gets busier or hotter treats them alike.
func (r *runner) runAll(ctx context.Context) error {
	var failures []error
	for run := range r.mostRepetitions() {
		for _, m := range r.measurements {
			if run >= m.repetitions(r.runs) {
				continue
			}
			fmt.Fprintf(os.Stderr, "run %d of %d: %s\n", run+1, m.repetitions(r.runs), m.rows[0].name)
			first := run % len(r.peers)
			order := r.able(m, slices.Concat(r.peers[first:], r.peers[:first]))
			for group := range slices.Chunk(order, m.sideBySide()) {
				failures = append(failures, r.runGroup(ctx, m, group)...)
				if ctx.Err() != nil {
					return errors.Join(append(failures, ctx.Err())...)
				}
			}
		}
	}
	return errors.Join(failures...)
}

// able returns those of peers that m can be made of. The others have no values.
func (r *runner) able(m measurement, peers []peer) []peer {
	return slices.DeleteFunc(peers, func(p peer) bool {
		if p.floor && !m.floors {
			return true // and no column
		}
		if m.way.protocol == "" || slices.Contains(p.protocols, m.way.protocol) {
			return false
		}
		for _, line := range m.rows {
			r.results.add(line.name, p.name, math.NaN())
		}
		return true
	})
}

func (r *runner) mostRepetitions() int {
	most := r.runs
	for _, m := range r.measurements {
		most = max(most, m.repetitions(r.runs))
	}
	return most
}

// runGroup makes one measurement of fresh processes of peers. They are all
// there from the first reading to the last, because what processes share, such
// as libraries, is divided among them.
func (r *runner) runGroup(ctx context.Context, m measurement, peers []peer) []error {
	ctx, cancel := context.WithTimeout(ctx, measurementLimit*time.Duration(len(peers))+r.scale.longSettle+r.scale.watch)
	defer cancel()
	var failures []error
	var started []*proxy
	for _, p := range peers {
		p.proxies = m.proxies
		run, err := r.start(ctx, p)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %s: %w", p.name, m.rows[0].name, err))
			continue
		}
		defer run.stop()
		defer context.AfterFunc(ctx, run.stop)() // fails whatever waits for it
		started = append(started, run)
	}

	var turn sync.Mutex // guards failures, results and notes, too
	var wg sync.WaitGroup
	for _, run := range started {
		wg.Go(func() {
			turn.Lock()
			defer turn.Unlock()
			if err := r.measure(ctx, m, run, &turn); err != nil {
				failures = append(failures, fmt.Errorf("%s: %s: %w%s", run.name, m.rows[0].name, err, run.evidence(ctx)))
			}
		})
	}
	wg.Wait()
	return failures
}

// subjectOf returns what m looks at of a running proxy.
func (r *runner) subjectOf(m measurement, run *proxy, turn *sync.Mutex) subject {
	s := subject{proxy: run, target: run.plain, scale: r.scale, turn: turn}
	switch {
	case m.way.protocol != "":
		s.target = run.streams
	case m.secure:
		s.target = run.tls
	}
	return s
}

// measure makes one measurement of a running proxy.
func (r *runner) measure(ctx context.Context, m measurement, run *proxy, turn *sync.Mutex) error {
	values, err := m.run(ctx, r.subjectOf(m, run, turn))
	if text := noteOf(run.name, err); text != "" && ctx.Err() == nil {
		if !slices.Contains(r.notes, text) {
			r.notes = append(r.notes, text)
		}
		err = nil
	}
	if err != nil {
		return err
	}
	for i, line := range m.rows {
		if r.rowFilter.MatchString(line.name) {
			r.results.add(line.name, run.name, values[i])
		}
	}
	return nil
}

// noteOf returns what is said below the table of an error that fails nothing.
func noteOf(name string, err error) string {
	if full, ok := errors.AsType[*capacityError](err); ok && name != ourName {
		return name + " " + full.Error()
	}
	if unserved, ok := errors.AsType[*unservedError](err); ok {
		return name + " " + unserved.Error()
	}
	if untraced, ok := errors.AsType[*untracedError](err); ok {
		return untraced.Error()
	}
	return ""
}
