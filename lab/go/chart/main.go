// Command chart prints what `helm template` prints of a chart directory: Helm's own engine and order, without the
// clients of clusters and registries that the whole of Helm would compile.
//
//	chart KUBERNETES-VERSION NAMESPACE RELEASE DIRECTORY NAME=VALUE...
package main

import (
	"fmt"
	"os"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/strvals"
)

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: chart KUBERNETES-VERSION NAMESPACE RELEASE DIRECTORY NAME=VALUE...")
		os.Exit(2)
	}
	if err := render(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func render(kubernetes, namespace, release, directory string, settings []string) error {
	version, err := chartutil.ParseKubeVersion(kubernetes)
	if err != nil {
		return fmt.Errorf("%q is no version of Kubernetes: %w", kubernetes, err)
	}
	chart, err := loader.LoadDir(directory)
	if err != nil {
		return err
	}
	given := map[string]interface{}{}
	for _, setting := range settings {
		if err := strvals.ParseInto(setting, given); err != nil {
			return fmt.Errorf("%q sets nothing: %w", setting, err)
		}
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *version
	options := chartutil.ReleaseOptions{Name: release, Namespace: namespace, Revision: 1, IsInstall: true}
	values, err := chartutil.ToRenderValues(chart, given, options, capabilities)
	if err != nil {
		return err
	}
	files, err := engine.Render(chart, values)
	if err != nil {
		return err
	}
	_, manifests, err := releaseutil.SortManifests(files, capabilities.APIVersions, releaseutil.InstallOrder)
	if err != nil {
		return err
	}
	for _, manifest := range manifests {
		fmt.Printf("---\n# Source: %s\n%s\n", manifest.Name, manifest.Content)
	}
	return nil
}
