"""scMoFormer (Tang et al., CIKM 2023): the proteins of cells from their RNA, by a graph of cells and genes."""
