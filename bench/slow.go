package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"
)

// What tunnels carry whose receivers read slowly, again and again: a long message
// and then many short ones.
const (
	longMessage   = 300_000
	shortMessage  = 2
	shortMessages = 100_000
)

const (
	slowInterval = 300 * time.Millisecond // between two reads of a slow peer
	slowWarmUp   = 2 * time.Second
	slowReadings = 10
	slowPeriod   = 5 * time.Second // of the readings
)

// slowSizes are how many bytes a slow peer reads at a time.
var slowSizes = []int64{0, 20_000, 100_000}

// slowMeasurements are about memory for what peers don't take.
func slowMeasurements(tunnels int) []measurement {
	var list []measurement
	for _, to := range []struct {
		name string
		open func(s subject, ctx context.Context, size int64) (*client, error)
	}{{"upstream", subject.pushToSlow}, {"client", subject.readSlowly}} {
		for _, size := range slowSizes {
			name := fmt.Sprintf("memory per tunnel, %s reads nothing", to.name)
			if size > 0 {
				name = fmt.Sprintf("memory per tunnel, %s reads %d kB each %v", to.name, size/1000, slowInterval)
			}
			list = append(list, measurement{
				rows: []row{{name, "KiB"}},
				run: func(ctx context.Context, s subject) ([]float64, error) {
					return measureSlow(ctx, s, tunnels, func() (*client, error) { return to.open(s, ctx, size) })
				},
			})
		}
	}
	return list
}

// measureSlow returns the most memory in KiB that each of the tunnels takes which
// open opens.
func measureSlow(ctx context.Context, s subject, tunnels int, open func() (*client, error)) ([]float64, error) {
	crowd, err := newCrowd(s)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()
	if crowd.clients, err = openMany(tunnels, open); err != nil {
		return nil, err
	}
	if err := sleep(ctx, slowWarmUp); err != nil {
		return nil, err
	}
	most := math.Inf(-1)
	for range slowReadings {
		if err := sleep(ctx, slowPeriod/slowReadings); err != nil {
			return nil, err
		}
		held, err := crowd.usage()
		if err != nil {
			return nil, err
		}
		most = max(most, crowd.memory(held))
	}
	return []float64{most}, nil
}

// pushToSlow opens a tunnel whose client sends all the time and whose upstream
// reads size bytes now and then.
func (s subject) pushToSlow(ctx context.Context, size int64) (*client, error) {
	c, err := s.dial(ctx, fmt.Sprintf("%s?bytes=%d", slowPath, size), smallBuffer)
	if err != nil {
		return nil, err
	}
	go push(c.conn, &clientMask)
	return c, nil
}

// readSlowly opens one whose upstream sends all the time and whose client reads
// size bytes now and then.
func (s subject) readSlowly(ctx context.Context, size int64) (*client, error) {
	c, err := s.dial(ctx, pushPath, smallBuffer)
	if err != nil {
		return nil, err
	}
	go trickle(c.conn, size)
	return c, nil
}

// push sends mixed messages until the connection is closed.
func push(conn io.Writer, mask *[4]byte) {
	mixed := appendFrame(nil, opBinary, mask, make([]byte, longMessage))
	for range shortMessages {
		mixed = appendFrame(mixed, opBinary, mask, make([]byte, shortMessage))
	}
	for {
		if _, err := conn.Write(mixed); err != nil {
			return
		}
	}
}

// trickle reads size bytes now and then until the connection is closed. Where that
// is none it cannot know, and stays as long as a client does.
func trickle(conn io.Reader, size int64) {
	if size == 0 {
		time.Sleep(connectionLimit)
		return
	}
	for {
		if _, err := io.CopyN(io.Discard, conn, size); err != nil {
			return
		}
		time.Sleep(slowInterval)
	}
}
