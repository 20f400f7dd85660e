package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"
)

const gib = 1 << 30

// measureUpload returns CPU seconds per GiB that clients send in frames of
// the given size.
func measureUpload(ctx context.Context, s subject, frame int) ([]float64, error) {
	share := s.bulkShare(frame)
	path := fmt.Sprintf("%s?bytes=%d", sinkPath, share)
	m := newMessage(frame)
	return s.measureBulk(ctx, path, share, func(c *client) error {
		for range share / int64(frame) {
			if _, err := c.conn.Write(m.frame); err != nil {
				return err
			}
		}
		_, err := c.receive() // that all has arrived
		return err
	})
}

// measureDownload returns CPU seconds per GiB that clients receive in frames
// of the given size.
func measureDownload(ctx context.Context, s subject, frame int) ([]float64, error) {
	share := s.bulkShare(frame)
	path := fmt.Sprintf("%s?bytes=%d&frame=%d", sourcePath, share, frame)
	start := newMessage(1)
	return s.measureBulk(ctx, path, share, func(c *client) error {
		if _, err := c.conn.Write(start.frame); err != nil {
			return err
		}
		return c.skip(share)
	})
}

// bulkShare is what one tunnel carries, in whole frames.
func (s subject) bulkShare(frame int) int64 {
	share := s.bulkBytes / int64(s.bulkTunnels)
	return share - share%int64(frame)
}

// measureBulk runs transfer on all tunnels at once.
func (s subject) measureBulk(
	ctx context.Context, path string, share int64, transfer func(*client) error,
) ([]float64, error) {
	clients, err := s.openTunnels(ctx, s.bulkTunnels, path, bulkBuffer)
	defer closeAll(clients)
	if err != nil {
		return nil, err
	}
	used, err := s.cpuDuring(func() error {
		return parallel(len(clients), func(i int) error { return transfer(clients[i]) })
	})
	moved := float64(share) * float64(len(clients))
	return []float64{used.Seconds() / (moved / gib)}, err
}

// measureLatency returns the 99th percentile, in microseconds, of the time
// from when a message was due to be sent until its echo was read. Messages
// are due at a fixed rate whatever happens to those before them.
func measureLatency(ctx context.Context, s subject) ([]float64, error) {
	clients, err := s.openTunnels(ctx, latencyCount, echoPath, smallBuffer)
	defer closeAll(clients)
	if err != nil {
		return nil, err
	}
	rounds := max(1, int(s.latencyTime.Seconds()*latencyRate)/latencyCount)
	start := time.Now().Add(10 * time.Millisecond)
	latencies := make([][]time.Duration, len(clients))

	sent := make(chan error, 1)
	go func() {
		err := sendOnSchedule(clients, rounds, start)
		if err != nil {
			closeAll(clients) // nobody must wait for what never comes
		}
		sent <- err
	}()
	err = parallel(len(clients), func(i int) (err error) {
		latencies[i], err = receiveStamped(clients[i], rounds, start)
		return err
	})
	if err := errors.Join(err, <-sent); err != nil {
		return nil, err
	}
	// A tunnel's first messages are also the first of the whole run.
	skip := min(rounds-1, latencyWarmUp/latencyCount)
	var all []time.Duration
	for _, one := range latencies {
		all = append(all, one[skip:]...)
	}
	return []float64{microseconds(percentile(all, 0.99))}, nil
}

// sendOnSchedule sends stamped messages on one tunnel after the other.
func sendOnSchedule(clients []*client, rounds int, start time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	payload := make([]byte, smallSize)
	var frame []byte
	for i := range rounds * len(clients) {
		due := time.Duration(i) * time.Second / latencyRate
		binary.BigEndian.PutUint64(payload, uint64(due))
		frame = appendFrame(frame[:0], opBinary, &clientMask, payload)
		sleepUntil(start.Add(due))
		if _, err := clients[i%len(clients)].conn.Write(frame); err != nil {
			return err
		}
	}
	return nil
}

// receiveStamped returns the latencies of n messages.
func receiveStamped(c *client, n int, start time.Time) ([]time.Duration, error) {
	latencies := make([]time.Duration, 0, n)
	for range n {
		payload, err := c.receive()
		if err != nil {
			return nil, err
		}
		if len(payload) != smallSize {
			return nil, fmt.Errorf("got an echo of %d bytes, want %d", len(payload), smallSize)
		}
		due := time.Duration(binary.BigEndian.Uint64(payload))
		latencies = append(latencies, time.Since(start)-due)
	}
	return latencies, nil
}

// percentile returns the smallest value that at least the fraction p of all
// values don't exceed. It sorts values.
func percentile(values []time.Duration, p float64) time.Duration {
	slices.Sort(values)
	return values[int(math.Ceil(p*float64(len(values))))-1]
}

// parallel calls f(0) to f(n-1) at once and waits for all.
func parallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err // one is enough: the others mostly say the same
		}
	}
	return nil
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
