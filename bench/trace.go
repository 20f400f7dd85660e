package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// traceShare is the part of other connects that are made while strace counts, as it makes
// each of them ten times as slow.
const traceShare = 20

// waits are calls that only wait. How many there are depends on how slow strace makes all
// others.
var waits = []string{"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"}

func callsMeasurement() measurement {
	return measurement{rows: []row{{"system calls per connect, echo, close", ""}}, run: measureCalls, floors: true}
}

// untracedError says why system calls could not be counted.
type untracedError struct{ err error }

func (e *untracedError) Error() string { return fmt.Sprintf("system calls are not counted: %v", e.err) }
func (e *untracedError) Unwrap() error { return e.err }

// measureCalls returns how many system calls about descriptors a connect makes. Where
// nobody may count them it comes with NaN, and with an untracedError.
func measureCalls(ctx context.Context, s subject) ([]float64, error) {
	n := max(1, s.connects/traceShare)
	if err := s.connectMany(ctx, n); err != nil { // what is done only once is done
		return nil, err
	}
	time.Sleep(teardown)
	stats, err := readStats()
	if err != nil {
		return nil, err
	}
	summary := filepath.Join(s.cmd.Dir, "strace.txt")
	stop, err := trace(ctx, treeOf(s.cmd.Process.Pid, stats), summary)
	if err != nil {
		return []float64{math.NaN()}, &untracedError{err}
	}
	err = s.connectMany(ctx, n)
	time.Sleep(teardown)
	stop()
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(summary) //nolint:gosec // in a folder of our own
	if err != nil {
		return nil, err
	}
	calls, err := parseCalls(content)
	return []float64{float64(calls) / float64(n)}, err
}

// trace has strace count the calls of these processes until stop is called. Then they are
// in the file.
func trace(ctx context.Context, pids []int, file string) (stop func(), err error) {
	args := []string{"-f", "-c", "-e", "trace=%network,%desc", "-o", file}
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	cmd := exec.CommandContext(ctx, "strace", args...) //nolint:gosec // numbers of processes
	cmd.SysProcAttr = childAttributes()
	messages, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(messages)
	err = awaitAttached(lines, len(pids))
	drained := make(chan struct{})
	go func() { // it tells about each new thread
		defer close(drained)
		for lines.Scan() {
		}
	}()
	stop = func() {
		_ = cmd.Process.Signal(os.Interrupt) // fails only when it has ended
		<-drained
		_ = cmd.Wait() // what it has counted is in the file
	}
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// awaitAttached returns when strace has told of each of n processes that it counts.
func awaitAttached(lines *bufio.Scanner, n int) error {
	for lines.Scan() {
		if !bytes.Contains(lines.Bytes(), []byte(" attached")) {
			return errors.New(lines.Text())
		}
		if n--; n == 0 {
			return nil
		}
	}
	return errors.New("strace has ended")
}

// parseCalls sums up what strace has counted, but for waits. Columns are the part of the
// time, seconds, microseconds per call, calls, errors if there are any, and the name.
func parseCalls(summary []byte) (int, error) {
	const callsColumn = 3
	sum := 0
	for line := range bytes.Lines(summary) {
		fields := bytes.Fields(line)
		if len(fields) <= callsColumn+1 {
			continue
		}
		name := string(fields[len(fields)-1])
		calls, err := strconv.Atoi(string(fields[callsColumn]))
		if err != nil || name == "total" || slices.Contains(waits, name) {
			continue
		}
		sum += calls
	}
	if sum == 0 {
		return 0, fmt.Errorf("strace has counted nothing: %q", summary)
	}
	return sum, nil
}
