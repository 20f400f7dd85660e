package main

import (
	"context"
	"math"
	"slices"
	"time"
)

// besideMeasurement is about what messages and connects cost while other tunnels are
// open, so whether the price of one grows with the number of all.
func besideMeasurement(sizes []int) measurement {
	var echoes, connects []row
	for _, size := range sizes {
		beside := " beside " + formatCount(size) + " idle tunnels, plain"
		echoes = append(echoes, row{"CPU per echo of 64 B" + beside, "µs"})
		connects = append(connects, row{"CPU per connect, echo, close" + beside, "µs"})
	}
	return measurement{
		rows: slices.Concat(echoes, connects),
		run: func(ctx context.Context, s subject) ([]float64, error) {
			return measureBeside(ctx, s, sizes)
		},
	}
}

// measureBeside returns the CPU microseconds of an echo beside each number of idle
// tunnels, and then those of a connect. For a proxy that cannot hold as many they come
// with NaN, and with a capacityError.
func measureBeside(ctx context.Context, s subject, sizes []int) ([]float64, error) {
	crowd, err := newCrowd(s)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()
	values := slices.Repeat([]float64{math.NaN()}, 2*len(sizes))
	for i, size := range sizes {
		if err := crowd.growTo(ctx, size); err != nil {
			return values, &capacityError{held: len(crowd.clients), wanted: size, err: err}
		}
		if err := sleep(ctx, time.Until(crowd.silent.Add(crowd.settle))); err != nil {
			return nil, err
		}
		echo, err := measureEcho(ctx, s)
		if err != nil {
			return nil, err
		}
		connect, err := measureConnect(ctx, s)
		if err != nil {
			return nil, err
		}
		values[i], values[len(sizes)+i] = echo[0], connect[0]
	}
	return values, crowd.checkAlive()
}
