package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"unicode"
)

// profileAll writes into a folder, for each CPU row, a profile of our module's
// process while it bears that row's load.
func (r *runner) profileAll(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // meant to be read by all
		return err
	}
	written := 0
	for _, m := range r.measurements {
		if !m.cpuBound {
			continue
		}
		file := filepath.Join(dir, fileName(m.rows[0].name)+".pprof")
		if err := r.profileOne(ctx, m, file); err != nil {
			return fmt.Errorf("profiling %s: %w", m.rows[0].name, err)
		}
		fmt.Println(file)
		written++
	}
	if written == 0 {
		return fmt.Errorf("no CPU row matches %q", r.rowFilter)
	}
	return nil
}

// profileOne repeats one measurement until the profile is complete. Nobody
// looks at the values: the profiler has its own costs.
func (r *runner) profileOne(ctx context.Context, m measurement, file string) error {
	ctx, cancel := context.WithTimeout(ctx, measurementLimit+r.scale.profile)
	defer cancel()
	run, err := r.start(ctx, r.peers[0])
	if err != nil {
		return err
	}
	defer run.stop()
	defer context.AfterFunc(ctx, run.stop)() // fails whatever waits for it

	var enough atomic.Bool
	load := make(chan error, 1)
	go func() {
		err := repeat(ctx, m, r.subjectOf(m, run, nil), &enough)
		if err != nil {
			cancel() // the rest of the profile would show an idle process
		}
		load <- err
	}()
	profile, err := run.admin.profile(ctx, r.scale.profile)
	enough.Store(true)
	// The load's error comes first: it is the cause if both failed.
	if err := errors.Join(<-load, err); err != nil {
		return err
	}
	return os.WriteFile(file, profile, 0o644) //nolint:gosec // as the folder
}

// repeat makes a measurement again and again until it is enough.
func repeat(ctx context.Context, m measurement, s subject, enough *atomic.Bool) error {
	for !enough.Load() {
		if _, err := m.run(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// fileName makes a row's name fit for a file.
func fileName(row string) string {
	words := strings.FieldsFunc(strings.ToLower(row), func(c rune) bool {
		return !unicode.IsLetter(c) && !unicode.IsDigit(c)
	})
	return strings.Join(words, "-")
}
