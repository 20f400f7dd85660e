package main

import "context"

// growthMeasurement is about our memory as a whole, which is what somebody who
// plans for a machine wants to know.
func growthMeasurement(sizes []int) measurement {
	rows := []row{{"memory without tunnels", "MiB"}}
	for _, size := range sizes {
		rows = append(rows, row{"memory with " + formatCount(size) + " idle tunnels, plain", "MiB"})
	}
	return measurement{
		rows: rows,
		run: func(ctx context.Context, s subject) ([]float64, error) {
			return measureGrowth(ctx, s, sizes)
		},
	}
}

// measureGrowth returns the proxy's memory in MiB before there are idle
// tunnels and with each number of them.
func measureGrowth(ctx context.Context, s subject, sizes []int) ([]float64, error) {
	crowd, err := newCrowd(s)
	if err != nil {
		return nil, err
	}
	defer crowd.leave()
	values := []float64{mib(crowd.empty)}
	for _, size := range sizes {
		if err := crowd.growTo(ctx, size); err != nil {
			return nil, err
		}
		held, err := crowd.read(ctx)
		if err != nil {
			return nil, err
		}
		values = append(values, mib(held))
	}
	return values, crowd.checkAlive()
}

func mib(u usage) float64 { return float64(u.pssKiB) / 1024 }
