package cgroups_test

import (
	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/cgroups/devicefilter"
)

func init() { cgroups.UseFilter(devicefilter.New()) }
